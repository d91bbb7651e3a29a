"""The training loop: what it learns, that it can be continued exactly, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from elasticvit.errors import DataError
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.checkpoints import CheckpointError, StoppedError, UnusableCheckpointError
from elasticvit.training.data import digits
from elasticvit.training.loop import train
from elasticvit.training.progress import Step
from tests.elasticvit.tiny_training import tiny_recipe, tiny_space


def _same(a: SuperNet, b: SuperNet) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def _after(steps: int) -> Callable[[], bool]:
    """A wish to stop after so many steps."""
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


def test_a_run_follows_from_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = train(tiny_recipe(), digits())
    torch.manual_seed(2)
    torch.rand(7)
    assert _same(first, train(tiny_recipe(), digits()))
    assert not _same(first, train(tiny_recipe(seed=1), digits()))
    assert not first.training


def test_training_leaves_global_settings_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    train(tiny_recipe(steps=1), digits())
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop_after", [1, 5])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(StoppedError, match=f"after step {stop_after} of 8"):
        train(tiny_recipe(), digits(), checkpoint=checkpoint, stop=_after(stop_after))
    assert [path.name for path in tmp_path.iterdir()] == ["run.checkpoint"]
    seen: list[Step] = []
    resumed = train(tiny_recipe(), digits(), checkpoint=checkpoint, report=seen.append)
    assert [step.done for step in seen] == list(range(stop_after + 1, 9))
    assert _same(resumed, train(tiny_recipe(), digits()))


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    seen: list[Step] = []
    done = train(tiny_recipe(), digits(), checkpoint=checkpoint)
    assert _same(done, train(tiny_recipe(), digits(), checkpoint=checkpoint, report=seen.append))
    assert not seen


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)
    with pytest.raises(UnusableCheckpointError, match="another recipe; delete it"):
        train(tiny_recipe(steps=1, lr=1e-3), digits(), checkpoint=checkpoint)


@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(UnusableCheckpointError, match="damaged"):
        train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)


def test_a_checkpoint_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        train(tiny_recipe(steps=1), digits(), checkpoint=tmp_path / "file" / "run.checkpoint")


def test_the_loss_goes_down() -> None:
    losses: list[float] = []
    train(tiny_recipe(steps=40, batch=32, lr=3e-3), digits(), report=lambda step: losses.append(step.loss or 0))
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(DataError, match="lower learning rate"):
        train(tiny_recipe(lr=1e30, weight_decay=1.0), digits())


def test_data_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match="10 classes, the space 7"):
        train(tiny_recipe(space=tiny_space(7)), digits())

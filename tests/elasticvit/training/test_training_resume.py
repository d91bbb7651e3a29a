"""Checkpoints: exact continuation with everything on, and what is refused or survives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elasticvit.data.image_set import digits
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.augment.mixup import Mix
from elasticvit.training.checkpoints import CheckpointError, UnusableCheckpointError
from elasticvit.training.loop import train
from tests.elasticvit.training.one_process import few_digits, whole_recipe
from tests.elasticvit.training.tiny_training import tiny_recipe
from tests.small_disk import small_disk


def _after(steps: int) -> Callable[[], bool]:
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


def _same(a: SuperNet, b: SuperNet) -> bool:
    return all(torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


@pytest.fixture(scope="module")
def uninterrupted() -> SuperNet:
    return train(whole_recipe(mix=Mix(mixup=0.2)), few_digits())


@pytest.mark.medium
@pytest.mark.parametrize("stop_after", [2, 6])
def test_everything_on_a_run_continues_bit_for_bit(tmp_path: Path, stop_after: int, uninterrupted: SuperNet) -> None:
    recipe, checkpoint = whole_recipe(mix=Mix(mixup=0.2)), tmp_path / "run.checkpoint"
    with pytest.raises(StoppedError):
        train(recipe, few_digits(), checkpoint=checkpoint, stop=_after(stop_after))
    held = torch.load(checkpoint)
    assert sum(map(len, held["sampler"]["banks"])) >= 2 and held["ema"] is not None
    resumed = train(recipe, few_digits(), checkpoint=checkpoint)
    assert _same(resumed, uninterrupted)


@pytest.mark.medium
def test_the_averaged_weights_are_handed_out(uninterrupted: SuperNet, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    averaged = train(whole_recipe(mix=Mix(mixup=0.2)), few_digits(), checkpoint=checkpoint)
    held = torch.load(checkpoint)
    name = "net.head.classify.weight"
    assert torch.equal(averaged.state_dict()[name], held["ema"][name])
    assert not torch.equal(held["model"][name], held["ema"][name])


def _checkpoint(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A checkpoint after one step, with something changed in it."""
    checkpoint = tmp_path / "run.checkpoint"
    train(tiny_recipe(steps=1, ema=0.9), digits(), checkpoint=checkpoint)
    content = torch.load(checkpoint)
    change(content)
    torch.save(content, checkpoint)
    return checkpoint


def _poison(content: dict[str, Any], part: str = "model") -> None:
    weight: Tensor = content[part]["net.head.classify.weight"]
    weight[0, 0] = float("nan")


def _poison_optimizer(content: dict[str, Any]) -> None:
    moment: Tensor = content["optimizer"]["state"][0]["exp_avg_sq"]
    moment.view(-1)[0] = float("inf")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_poison, "NaN .* model.net.head.classify.weight"),
        (lambda c: _poison(c, "ema"), "NaN .* ema.net.head.classify.weight"),
        (_poison_optimizer, "NaN .* optimizer.state.0.exp_avg_sq"),
        (lambda c: c["model"].pop("net.head.classify.bias"), "net.head.classify.bias"),
        (lambda c: c["model"].update({"net.extra": torch.zeros(1)}), "net.extra"),
        (lambda c: c["model"].update({"net.head.classify.bias": torch.zeros(3)}), "net.head.classify.bias"),
        (lambda c: c.pop("optimizer"), "optimizer"),
        (lambda c: c["sampler"].pop("banks"), "banks"),
        (lambda c: c.update(format="elasticvit-checkpoint/1"), "another"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    checkpoint = _checkpoint(tmp_path, change)
    before = checkpoint.read_bytes()
    with pytest.raises(UnusableCheckpointError, match=message):
        train(tiny_recipe(steps=1, ema=0.9), digits(), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before


@pytest.mark.medium
def test_a_run_without_its_teachers_is_another_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint"
    train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint, teachers=[lambda images: torch.zeros(len(images), 10)])
    with pytest.raises(UnusableCheckpointError, match="another"):
        train(tiny_recipe(steps=1), digits(), checkpoint=checkpoint)


@pytest.mark.medium
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """The kernel refuses to let a file grow past a limit, as it would on a full disk."""
    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(StoppedError):
        train(tiny_recipe(), digits(), checkpoint=checkpoint, stop=_after(1))
    before = checkpoint.read_bytes()
    with small_disk(len(before) // 2), pytest.raises(CheckpointError, match=r"nothing was changed\. Make room"):
        train(tiny_recipe(), digits(), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.checkpoint"]
    assert _same(train(tiny_recipe(), digits(), checkpoint=checkpoint), train(tiny_recipe(), digits()))


@pytest.mark.medium
def test_more_images_a_step_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="64 training images, a step takes 65"):
        train(tiny_recipe(batch=65), few_digits())

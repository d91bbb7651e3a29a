"""Supernet files of runs that have not ended."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from elasticvit.cli.app import app
from elasticvit.data.image_set import digits
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.net import Net
from elasticvit.nn.supernet_file import Card, load_supernet
from elasticvit.training.checkpoints import UnusableCheckpointError
from elasticvit.training.loop import train, train_plain
from elasticvit.training.recipes import card
from elasticvit.training.snapshot import checkpoint_path, snapshot
from tests.elasticvit.training.tiny_training import tiny_recipe


@pytest.mark.medium
@pytest.mark.parametrize(("ema", "key"), [(None, "model"), (0.5, "ema")])
def test_a_stopped_run_becomes_a_supernet_and_goes_on(tmp_path: Path, ema: float | None, key: str) -> None:
    run, out = tmp_path / "run.safetensors", tmp_path / "half.safetensors"
    recipe, checkpoint = tiny_recipe(ema=ema), checkpoint_path(tmp_path / "run.safetensors")
    with pytest.raises(StoppedError):
        train(recipe, digits(), checkpoint=checkpoint, stop=lambda: True, card=card(recipe, digits()))
    assert snapshot(run, out) == 1
    held, half = torch.load(checkpoint), load_supernet(out)
    assert half.space == recipe.space and not half.training
    assert all(torch.equal(tensor, half.state_dict()[name]) for name, tensor in held[key].items())
    assert half.card.name == "tiny" and half.card.data == "digits" and half.card.class_names == tuple("0123456789")
    assert half.card.provenance["step"] == 1 and half.card.provenance["recipe"]["steps"] == recipe.steps
    train(recipe, digits(), checkpoint=checkpoint, card=card(recipe, digits()))
    assert snapshot(run, out) == recipe.steps


@pytest.mark.medium
def test_terms_and_scaling_are_those_of_the_file_to_come(tmp_path: Path) -> None:
    """Which a fine-tuned supernet has of its base, not of its images."""
    run, recipe = tmp_path / "run.safetensors", tiny_recipe()
    mine = Card(
        "mine", digits().class_names, "digits", (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), "For research only.", {"a": 1}
    )
    with pytest.raises(StoppedError):
        train(recipe, digits(), checkpoint=checkpoint_path(run), stop=lambda: True, card=mine)
    snapshot(run, tmp_path / "half.safetensors")
    assert load_supernet(tmp_path / "half.safetensors").card == replace(mine, provenance={"a": 1, "step": 1})


def test_the_error_for_a_missing_checkpoint_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start it first"):
        snapshot(tmp_path / "run.safetensors", tmp_path / "out.safetensors")
    answer = CliRunner().invoke(
        app, ["snapshot", str(tmp_path / "run.safetensors"), "--out", str(tmp_path / "out.safetensors")]
    )
    assert answer.exit_code == 2 and "start it first" in answer.output
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    run, out = tmp_path / "run.safetensors", tmp_path / "out.safetensors"
    recipe = tiny_recipe()
    with pytest.raises(StoppedError):
        net = Net(recipe.space.smallest())
        train_plain(net, recipe, digits(), checkpoint=checkpoint_path(run), stop=lambda: True)
    with pytest.raises(UnusableCheckpointError, match="not of a supernet"):
        snapshot(run, out)
    checkpoint_path(run).unlink()
    with pytest.raises(StoppedError):
        train(recipe, digits(), checkpoint=checkpoint_path(run), stop=lambda: True)
    with pytest.raises(UnusableCheckpointError, match="has no card"):
        snapshot(run, out)
    whole = checkpoint_path(run).read_bytes()
    checkpoint_path(run).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableCheckpointError, match="damaged"):
        snapshot(run, out)
    torch.save({"format": "other/1", "made_by": "{} 0 teachers"}, checkpoint_path(run))
    with pytest.raises(UnusableCheckpointError, match="another format, 'other/1'"):
        snapshot(run, out)
    assert not out.exists()

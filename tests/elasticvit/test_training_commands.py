"""The commands `train` and `evaluate`, and the default recipe in earnest."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from elasticvit.accuracy import accuracy_of
from elasticvit.accuracy_table import AccuracyTable
from elasticvit.errors import DataError
from elasticvit.nn.files import load_supernet
from elasticvit.space import small
from elasticvit.training.commands import evaluate, stop_on_signals, train
from elasticvit.training.data import digits
from elasticvit.training.loop import train as run
from elasticvit.training.recipes import digits_minutes


def test_training_writes_a_supernet_that_evaluates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = train("digits", tmp_path / "mine.safetensors", steps=2, evaluated=2)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.safetensors", "mine.accuracy.jsonl"}
    assert load_supernet(out).card.provenance["recipe"]["steps"] == 2
    table = AccuracyTable.load(tmp_path / "mine.accuracy.jsonl")
    found = evaluate(out, [small(1000).smallest(), small().largest()])
    assert [accuracy.top1 for accuracy in found] == table.top1.tolist()
    said = capfd.readouterr()
    assert "train" in said.err and "evaluate" in said.err and not said.out


def test_an_unknown_recipe_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="known: cifar10_1gpu"):
        train("imagenet", tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_become_a_wish(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_a_third_of_the_default_recipe_learns_digits() -> None:
    """Well above chance at every size, long before the end."""
    recipe = digits_minutes()
    supernet = run(replace(recipe, steps=60, optim=replace(recipe.optim, warmup=10)), digits())
    codes = small().sample(np.random.default_rng(0), 4)
    archs = [small().smallest(), small().largest(), *map(small().decode, codes)]
    top1 = [accuracy_of(supernet, arch, digits()).top1 for arch in archs]
    assert min(top1) > 0.3 and sum(top1) / len(top1) > 0.5

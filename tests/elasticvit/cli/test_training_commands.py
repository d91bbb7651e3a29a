"""The commands `train` and `evaluate`, and the default recipe in earnest."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elasticvit.accuracy.table import AccuracyTable
from elasticvit.archs.space import small
from elasticvit.errors import DataError
from elasticvit.nn.supernet_file import load_supernet
from elasticvit.training.run import evaluate, stop_on_signals, train
from elasticvit.training.snapshot import snapshot


@pytest.mark.medium
def test_training_writes_a_supernet_that_evaluates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = train("digits", tmp_path / "mine.safetensors", steps=2, evaluated=8)
    assert out == tmp_path / "mine.safetensors"
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.safetensors",
        "mine.accuracy.jsonl",
        "mine.train.jsonl",
    }
    assert load_supernet(out).card.provenance["recipe"]["steps"] == 2
    table = AccuracyTable.load(tmp_path / "mine.accuracy.jsonl")
    accuracies = evaluate(out, [small(1000).smallest(), small().largest()])
    assert [accuracy.value for accuracy in accuracies] == [table.val[0], table.val[-1]] and len(table.val) == 8
    printed = capfd.readouterr()
    assert "train" in printed.err and "evaluate" in printed.err and not printed.out


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


@pytest.mark.medium
def test_a_terminated_command_ends_well_and_goes_on(tmp_path: Path) -> None:
    """A real process under SIGTERM: it finishes its step, saves, prints a message and exits 0. A rerun resumes."""
    log = tmp_path / "x.train.jsonl"
    command = [sys.executable, "-m", "elasticvit.training", "digits", "--out", str(tmp_path / "x.safetensors")]
    command += ["--steps", "6", "--evaluated", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "stopped after step" in stderr and "run the same command to resume" in stderr
    assert "Traceback" not in stderr
    done = len(log.read_text().splitlines())
    assert done < 6 and {path.name for path in tmp_path.iterdir()} == {log.name, ".x.safetensors.checkpoint"}
    # What it left is a supernet already.
    assert snapshot(tmp_path / "x.safetensors", tmp_path / "half.safetensors") == done
    assert load_supernet(tmp_path / "half.safetensors").card.class_names == tuple("0123456789")
    (tmp_path / "half.safetensors").unlink()
    assert train("digits", tmp_path / "x.safetensors", steps=6, evaluated=0) == tmp_path / "x.safetensors"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in tmp_path.iterdir()} == {log.name, "x.safetensors"}


@pytest.mark.medium
def test_a_space_gets_the_classes_of_other_data(tmp_path: Path) -> None:
    """A folder of one's own images in place of the recipe's."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "eel"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    out = train("digits", tmp_path / "x.safetensors", steps=1, evaluated=0, data=str(tmp_path / "photos"))
    assert out is not None
    loaded = load_supernet(out)
    assert loaded.card.class_names == ("cat", "dog", "eel") and loaded.space.classes == 3

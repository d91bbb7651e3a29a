"""The default supernet of a home folder: whole or not there, never done twice, and continued after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from elasticvit.accuracy.evaluate import accuracy_of
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.data.image_set import digits
from elasticvit.errors import StoppedError
from elasticvit.nn.supernet_file import load_supernet
from elasticvit.pretrained.prepare import prepare_default
from elasticvit.progress import Step, silent
from elasticvit.training.checkpoints import CheckpointError
from tests.elasticvit.training.tiny_training import tiny_recipe

EVALUATED = 6
FINISHED = {"tiny.safetensors", "tiny.accuracy.jsonl"}


def _prepare(folder: Path, stop: Callable[[], bool] = lambda: False, **changes: object) -> tuple[list[str], list[Step]]:
    """The messages and the reported steps."""
    messages: list[str] = []
    steps: list[Step] = []
    path = prepare_default(
        folder, messages.append, recipe=tiny_recipe(**changes), evaluated=EVALUATED, report=steps.append, stop=stop
    )
    assert path == folder / "tiny.safetensors"
    return messages, steps


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernets")
    _prepare(folder)
    return folder


@pytest.mark.medium
def test_a_supernet_and_a_table_of_its_networks_appear(prepared: Path) -> None:
    assert _names(prepared) == FINISHED
    supernet = load_supernet(prepared / "tiny.safetensors")
    assert supernet.card.data == "digits" and supernet.card.class_names == digits().class_names
    assert supernet.card.provenance["recipe"]["steps"] == tiny_recipe().steps
    table = AccuracyTable.load(prepared / "tiny.accuracy.jsonl")
    assert (table.space, table.images, len(table.top1)) == (supernet.space, len(digits().search), EVALUATED)
    for at in (0, -1):
        assert accuracy_of(supernet, table.space.decode(table.codes[at]), digits()).value == table.val[at]


@pytest.mark.medium
def test_what_is_there_is_not_done_again(prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    assert _prepare(prepared) == ([], [])
    assert {path: path.stat().st_mtime_ns for path in prepared.iterdir()} == before


def _same_files(folder: Path, prepared: Path) -> bool:
    """The same weights and accuracies to the last bit (the header of a supernet file may be ordered otherwise)."""
    here, there = (load_supernet(path / "tiny.safetensors").state_dict() for path in (folder, prepared))
    tables = [(path / "tiny.accuracy.jsonl").read_bytes() for path in (folder, prepared)]
    return tables[0] == tables[1] and all(torch.equal(tensor, there[name]) for name, tensor in here.items())


@pytest.mark.medium
def test_a_killed_training_goes_on_to_the_same_files(tmp_path: Path, prepared: Path) -> None:
    """A real process, killed without warning in the middle."""
    program = (
        "import time, pathlib, sys\n"
        "from elasticvit.pretrained.prepare import prepare_default\n"
        "from tests.elasticvit.training.tiny_training import tiny_recipe\n"
        "slow = lambda step: time.sleep(0.3)\n"
        f"prepare_default(pathlib.Path(sys.argv[1]), recipe=tiny_recipe(), evaluated={EVALUATED}, report=slow)\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=env) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / ".tiny.checkpoint").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert ".tiny.checkpoint" in _names(tmp_path)
    assert all(name.startswith(".") for name in _names(tmp_path))
    _, steps = _prepare(tmp_path)
    trained = [step.done for step in steps if step.phase == "train"]
    assert trained[0] > 1 and trained[-1] == 8
    assert _names(tmp_path) == FINISHED
    assert _same_files(tmp_path, prepared)


@pytest.mark.medium
def test_a_stopped_evaluation_keeps_what_is_done(tmp_path: Path, prepared: Path) -> None:
    # Called once after each training step, then before each evaluation.
    calls = iter(range(1000))
    with pytest.raises(StoppedError, match="after evaluating 2 of 6"):
        _prepare(tmp_path, stop=lambda: next(calls) >= tiny_recipe().steps + 2)
    assert _names(tmp_path) == {"tiny.safetensors", ".tiny.accuracy.jsonl"}
    calls = iter(range(1000))
    with pytest.raises(StoppedError, match="after evaluating 3 of 6"):
        _prepare(tmp_path, stop=lambda: next(calls) >= 1)
    messages, steps = _prepare(tmp_path)
    assert len(messages) == 1 and {step.phase for step in steps} == {"evaluate"}
    assert _names(tmp_path) == FINISHED and _same_files(tmp_path, prepared)


@pytest.mark.medium
def test_leftovers_of_other_runs_do_no_harm(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / ".tiny.checkpoint").write_bytes(b"torn")
    (tmp_path / ".tiny.checkpoint.part").write_bytes(b"torn")
    (tmp_path / ".tiny.safetensors.x1").write_bytes(b"torn")
    (tmp_path / "tiny.safetensors").write_bytes((prepared / "tiny.safetensors").read_bytes()[:1000])
    (tmp_path / "tiny.accuracy.jsonl").write_bytes((prepared / "tiny.accuracy.jsonl").read_bytes()[:100])
    (tmp_path / ".tiny.accuracy.jsonl").write_bytes(b"torn")
    _prepare(tmp_path)
    assert _names(tmp_path) == FINISHED and _same_files(tmp_path, prepared)


@pytest.mark.medium
def test_a_new_supernet_does_not_keep_old_accuracies(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / "tiny.accuracy.jsonl").write_bytes((prepared / "tiny.accuracy.jsonl").read_bytes())
    messages, _ = _prepare(tmp_path, seed=1)
    assert len(messages) == 2
    assert not _same_files(tmp_path, prepared)


@pytest.mark.medium
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        prepare_default(tmp_path / "file", recipe=tiny_recipe(steps=1), report=silent)

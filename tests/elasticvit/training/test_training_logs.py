"""Logs: what is written, and that a run that goes on leaves no step twice."""

import json
from pathlib import Path

import pytest

from elasticvit.training.logs import JsonLines, LogError, Record, TensorBoard, logs_to


def _record(step: int) -> Record:
    return Record(step, 1, {"uniform": 2.0 / step, "smallest": 2.5}, 1e-3, 100.0, 0.5)


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_every_record_is_a_line(tmp_path: Path) -> None:
    with logs_to(tmp_path / "deep" / "run.jsonl") as log:
        log.begin(0)
        for step in (1, 2):
            log(_record(step))
    lines = [json.loads(line) for line in (tmp_path / "deep" / "run.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "step": 2,
        "level": 1,
        "losses": {"uniform": 1.0, "smallest": 2.5},
        "lr": 1e-3,
        "images_per_s": 100.0,
        "gradient_norm": 0.5,
    }


def test_steps_after_the_checkpoint_are_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = JsonLines(path)
    log.begin(0)
    for step in range(1, 6):
        log(_record(step))
    with path.open("a") as file:
        file.write('{"step": 6, "lev')  # killed while writing
    log.begin(3)
    assert _steps(path) == [1, 2, 3]
    log(_record(4))
    assert _steps(path) == [1, 2, 3, 4]
    log.begin(0)
    assert _steps(path) == []


def test_records_may_be_thinned_out(tmp_path: Path) -> None:
    with logs_to(tmp_path / "run.jsonl", every=10) as log:
        log.begin(0)
        for step in range(1, 31):
            log(_record(step))
    assert _steps(tmp_path / "run.jsonl") == [10, 20, 30]


def test_no_log_is_fine(tmp_path: Path) -> None:
    with logs_to(None) as log:
        log.begin(0)
        log(_record(1))
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LogError, match="cannot write"):
        JsonLines(tmp_path / "file" / "run.jsonl").begin(0)


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logs_to(None, tmp_path) as log:
        log.begin(0)
        for step in (1, 2):
            log(_record(step))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {
        "loss/uniform",
        "loss/smallest",
        "lr",
        "level",
        "gradient_norm",
        "images_per_s",
    }
    assert [(event.step, event.value) for event in read.Scalars("loss/uniform")] == [(1, 2.0), (2, 1.0)]
    TensorBoard(tmp_path).close()  # one that never began

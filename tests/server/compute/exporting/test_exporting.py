"""The exporting process by itself: what it makes, and what becomes of an order when it dies, lingers or grows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from elasticvit.archs.published import published
from elasticvit.archs.space import paper
from elasticvit.errors import SpaceError, SupernetFileError
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from server.compute.exporting.exporter import ChildExporter
from server.compute.exporting.order import FindImages, ListOps, LoadSupernet, Unwatched
from server.compute.exporting.process import Limits
from server.compute.task import Stopped
from server.errors import Conflict, ExportCrashed
from server.services import tflite_upload
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.compute.exporting_farm import (
    NOWHERE,
    LocalExporter,
    Meddler,
    damaged,
    export,
    ref,
    with_nan,
    with_one_image,
)
from tests.server.supernet_files import supernet_file

LIMITS = Limits(timeout_seconds=120, memory_bytes=4_000_000_000)
PATIENCE_SECONDS = 60.0
UNWATCHED = Unwatched()


@pytest.fixture(scope="module")
def child() -> Iterator[ChildExporter]:
    exporter = ChildExporter(LIMITS)
    exporter.start()
    yield exporter
    exporter.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return supernet_file(tmp_path_factory.mktemp("supernets") / "tiny.safetensors", data=NOWHERE)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


@pytest.mark.medium
def test_the_process_makes_what_this_one_makes(child: ChildExporter, file: Path) -> None:
    watch = Meddler()
    made = child.run(export(file), watch)
    assert made == LocalExporter().run(export(file), UNWATCHED)
    assert made.data[4:8] == b"TFL3" and made.manifest and made.images is False
    assert watch.stages == [
        "loading the supernet",
        "extracting",
        "recalibrating",
        "evaluating",
        "writing and checking",
    ]


@pytest.mark.medium
def test_without_recalibration_accuracy_stays_unknown(child: ChildExporter, file: Path, tmp_path: Path) -> None:
    watch = Meddler()
    made = child.run(export(file, recalibrate=False), watch)
    assert "recalibrating" not in watch.stages and made.accuracy is None
    (tmp_path / "made.tflite").write_bytes(made.data)
    ops = child.run(ListOps(ref(file), tiny_space().largest()), UNWATCHED)
    assert len(ops) == tflite_upload.describe(tmp_path / "made.tflite")["operators"] and all(op.builtin for op in ops)


@pytest.mark.medium
def test_it_keeps_what_it_loaded_and_one_process(child: ChildExporter, file: Path) -> None:
    child.run(LoadSupernet(ref(file)), UNWATCHED)
    pid = child.pid
    child.run(LoadSupernet(ref(file)), UNWATCHED)
    assert child.pid == pid


@pytest.mark.medium
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_dies_twice_at_work_is_an_error_and_the_next_is_a_fresh_one(
    child: ChildExporter, file: Path, number: signal.Signals
) -> None:
    child.run(LoadSupernet(ref(file)), UNWATCHED)
    killed: list[int] = []
    with pytest.raises(ExportCrashed, match=rf"{number.name}.*nothing was stored") as caught:
        child.run(export(file), Meddler("recalibrating", lambda: kill(child, number, killed)))
    assert len(set(killed)) == 2
    assert caught.value.final and caught.value.kind == "infra"
    if number is signal.SIGSEGV:
        assert "Segmentation fault" in caught.value.log, "the tail of what it said is kept"
    assert child.run(export(file), UNWATCHED).data and child.pid not in killed


def kill(child: ChildExporter, number: int, killed: list[int]) -> None:
    assert child.pid is not None
    killed.append(child.pid)
    os.kill(child.pid, number)


@pytest.mark.medium
def test_an_order_whose_process_is_killed_is_tried_once_more_in_another(child: ChildExporter, file: Path) -> None:
    killed: list[int] = []
    meddler = Meddler("recalibrating", lambda: None if killed else kill(child, signal.SIGKILL, killed))
    assert child.run(export(file), meddler).data
    assert child.pid not in killed and meddler.stages.count("recalibrating") == 2


@pytest.mark.medium
def test_a_signal_without_a_name_is_named_by_its_number(child: ChildExporter, file: Path) -> None:
    with pytest.raises(ExportCrashed, match=r"signal 40 .*nothing was stored"):
        child.run(export(file), Meddler("recalibrating", lambda: kill(child, 40, [])))


@pytest.mark.medium
def test_errors_of_the_project_keep_their_class(child: ChildExporter, file: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="192"):
        child.run(export(file, published("S1")), UNWATCHED)
    pid = child.pid
    with pytest.raises(SupernetFileError, match="NaN"):
        child.run(export(damaged(tmp_path / "nan.safetensors", with_nan)), UNWATCHED)
    with pytest.raises(SupernetFileError, match="2 or more"):
        child.run(export(damaged(tmp_path / "one.safetensors", with_one_image)), UNWATCHED)
    known = export(supernet_file(tmp_path / "a.safetensors", seed=3, data=NOWHERE))
    supernet_file(tmp_path / "a.safetensors", seed=4, data=NOWHERE)
    with pytest.raises(Conflict, match="registered"):
        child.run(known, UNWATCHED)
    assert child.pid == pid, "an error of the work is no reason for a new process"


@pytest.mark.medium
def test_too_long_is_an_error_and_ends_it(file: Path) -> None:
    exporter = ChildExporter(Limits(timeout_seconds=0.01, memory_bytes=LIMITS.memory_bytes), kept=False)
    with pytest.raises(ExportCrashed, match=r"more than 0\.01 s.*ELASTICVIT_EXPORT_TIMEOUT_SECONDS"):
        exporter.run(export(file), UNWATCHED)
    assert exporter.pid is None
    exporter.close()


def test_a_slow_start_does_not_count_as_time_of_an_export(file: Path) -> None:
    exporter = ChildExporter(replace(LIMITS, start_seconds=0.01), kept=False)
    with pytest.raises(ExportCrashed, match=r"not ready after 0\.01 s") as caught:
        exporter.run(export(file), UNWATCHED)
    assert "ELASTICVIT_EXPORT_TIMEOUT_SECONDS" not in str(caught.value) and exporter.pid is None
    exporter.close()


@pytest.mark.medium
def test_the_working_directory_does_not_stand_in_for_our_packages(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("server", "elasticvit", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('taken from the working directory')")
    monkeypatch.chdir(tmp_path)
    exporter = ChildExporter(LIMITS, kept=False)
    assert exporter.run(FindImages(ref(file)), UNWATCHED) is False
    exporter.close()


@pytest.mark.medium
def test_too_much_memory_is_an_error_and_ends_it(tmp_path: Path) -> None:
    """The paper's largest networks in a process that may grow by less than their supernet takes."""
    large = tmp_path / "paper.safetensors"
    save_supernet(large, SuperNet(paper()), Card("paper", tuple(map(str, range(1000))), NOWHERE))
    exporter = ChildExporter(Limits(timeout_seconds=120, memory_bytes=450_000_000), kept=False)
    with pytest.raises(ExportCrashed, match=r"more than 450 MB.*ELASTICVIT_EXPORT_MEMORY_MB"):
        exporter.run(export(large, paper().adopt(published("L1"))), UNWATCHED)
    assert exporter.pid is None
    exporter.close()


def test_nobody_who_waits_ends_it_at_once(file: Path) -> None:
    exporter = ChildExporter(LIMITS, kept=False)
    with pytest.raises(Stopped):  # while it still loads what it needs
        exporter.run(export(file), Meddler(objection=Stopped()))
    assert exporter.pid is None
    exporter.close()


@pytest.mark.medium
def test_a_word_at_a_stage_ends_it_at_once(child: ChildExporter, file: Path) -> None:
    def stop() -> None:
        raise Stopped

    pid = child.pid
    with pytest.raises(Stopped):
        child.run(export(file), Meddler("extracting", stop))
    assert pid is None or gone(pid)
    assert child.run(export(file), UNWATCHED).data


@pytest.mark.slow
@pytest.mark.parametrize("end", ["os._exit(0)", "exporter.close()"])
def test_it_ends_with_its_parent(end: str, file: Path) -> None:
    code = (
        "import os, sys\n"
        "from server.compute.exporting.exporter import ChildExporter\n"
        "from server.compute.exporting.process import Limits\n"
        f"exporter = ChildExporter(Limits(60, {LIMITS.memory_bytes}))\n"
        "exporter.start()\n"
        "print(exporter.pid, flush=True)\n"
        f"{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    # It notices as soon as it has loaded what it needs.
    assert gone(int(done.stdout))


@pytest.mark.medium
def test_exporters_take_turns_and_may_be_left_waiting(child: ChildExporter, file: Path) -> None:
    def ask_again() -> None:
        with pytest.raises(Stopped):
            child.run(export(file), Meddler(objection=Stopped()))

    assert child.run(export(file), Meddler("extracting", ask_again)).data

"""Reports on disk until the server has them, in order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from device_agent.errors import Refused, ServerAway, ServerFault, StaleLease
from device_agent.uplink.spool import FAULT_SECONDS, MAX_FAULTS, Spool
from server.wire import Failure, JobStatus, Report, Reported


def report_of(lease_id: str) -> Report:
    return Report(lease_id=lease_id, attempt=1, outcome="failed", failure=Failure(kind="device", detail="it fell"))


class Receiver:
    """The server's end: takes reports, or raises what was put for a lease."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.failures: list[str] = []
        self.errors: dict[str, Exception] = {}

    def send(self, report: Report) -> Reported:
        if report.lease_id in self.errors:
            raise self.errors[report.lease_id]
        self.taken.append(report.lease_id)
        self.failures.append(report.failure.detail if report.failure else "")
        return Reported(job_id="job", status=JobStatus.QUEUED, measurement_id=None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_reports_go_in_the_order_in_which_they_came_also_after_restarts(tmp_path: Path) -> None:
    for lease_id in ("c", "a", "b"):
        Spool(tmp_path).put(report_of(lease_id))
    receiver = Receiver()
    Spool(tmp_path).flush(receiver.send)
    assert receiver.taken == ["c", "a", "b"]
    assert names(tmp_path) == []


def test_a_server_that_goes_away_in_between_gets_the_rest_later(tmp_path: Path) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    for lease_id in ("a", "b", "c"):
        spool.put(report_of(lease_id))
    receiver.errors["b"] = ServerAway("gone")
    with pytest.raises(ServerAway):
        spool.flush(receiver.send)
    assert receiver.taken == ["a"]
    spool.put(report_of("d"))
    del receiver.errors["b"]
    spool.flush(receiver.send)
    assert receiver.taken == ["a", "b", "c", "d"]


def test_a_stale_report_is_dropped(tmp_path: Path) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    for lease_id in ("a", "b"):
        spool.put(report_of(lease_id))
    receiver.errors["a"] = StaleLease("too late")
    spool.flush(receiver.send)
    assert receiver.taken == ["b"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b'{"lease_id": "a", "att', b"\xff\xfe", b'{"lease_id": "a"}'])
def test_a_corrupt_file_is_set_aside_and_the_others_go(tmp_path: Path, damage: bytes) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    for lease_id in ("a", "b"):
        spool.put(report_of(lease_id))
    (tmp_path / "00000001.json").write_bytes(damage)
    spool.flush(receiver.send)
    assert receiver.taken == ["b"]
    assert names(tmp_path) == ["00000001-0.corrupt"]


def test_a_refused_report_is_kept_and_reported_to_the_server_as_a_failure(tmp_path: Path) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    spool.put(report_of("a"))
    answers: list[Exception | None] = [Refused("rounds: too many"), None]

    def send(report: Report) -> Reported:
        error = answers.pop(0)
        if error is not None:
            raise error
        return receiver.send(report)

    spool.flush(send)
    assert receiver.failures == ["the server refused the agent's report: rounds: too many"]
    assert names(tmp_path) == ["00000001-0.refused"]
    spool.put(report_of("b"))
    receiver.errors["b"] = Refused("no")
    spool.flush(receiver.send)
    assert names(tmp_path) == ["00000001-0.refused", "00000001-1.refused"]


def test_a_report_does_not_wait_for_the_answer_to_another(tmp_path: Path) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    gate, sending = threading.Event(), threading.Event()

    def slow_send(report: Report) -> Reported:
        sending.set()
        assert gate.wait(30)
        return receiver.send(report)

    first = spool.put(report_of("a"))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(spool.flush, slow_send)
        assert sending.wait(30)
        spool.put(report_of("b"))
        spool.flush(receiver.send)
        assert receiver.taken == ["b"] and first.exists()
        gate.set()
        slow.result(30)
    assert receiver.taken == ["b", "a"], "each was sent once"
    assert names(tmp_path) == []


def test_reports_that_are_put_at_once_get_a_file_each(tmp_path: Path) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda number: spool.put(report_of(str(number))), range(32)))
    assert len(set(paths)) == 32
    spool.flush(receiver.send)
    assert sorted(receiver.taken, key=int) == [str(number) for number in range(32)]


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("not a report")
    (tmp_path / ".00000007.json.part").write_text("half")
    spool, receiver = Spool(tmp_path), Receiver()
    spool.put(report_of("a"))
    spool.flush(receiver.send)
    assert receiver.taken == ["a"]
    assert names(tmp_path) == ["notes.json"]


class Seconds:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_report_on_which_the_server_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    spool, receiver = Spool(tmp_path), Receiver()
    for lease_id in ("a", "b"):
        spool.put(report_of(lease_id))
    receiver.errors["a"] = ServerFault("an error of the server")
    for _ in range(2):
        with pytest.raises(ServerFault):
            spool.flush(receiver.send)
    assert receiver.taken == ["b"]
    assert names(tmp_path) == ["00000001.json"]


@pytest.mark.parametrize(("every_s", "tries"), [(FAULT_SECONDS / MAX_FAULTS * 2, MAX_FAULTS), (30.0, 121)])
def test_a_report_on_which_the_server_always_fails_is_set_aside(tmp_path: Path, every_s: float, tries: int) -> None:
    """After `MAX_FAULTS` times, and not before `FAULT_SECONDS` have passed."""
    clock = Seconds()
    spool, receiver = Spool(tmp_path, clock), Receiver()
    spool.put(report_of("a"))
    receiver.errors["a"] = ServerFault("an error of the server")
    for _ in range(tries - 1):
        with pytest.raises(ServerFault):
            spool.flush(receiver.send)
        clock.now_s += every_s
    spool.flush(receiver.send)
    assert names(tmp_path) == ["00000001-0.failed"]
    spool.put(report_of("b"))
    spool.flush(receiver.send)
    assert receiver.taken == ["b"]


def test_a_server_that_is_away_or_fails_now_and_then_loses_no_report(tmp_path: Path) -> None:
    clock = Seconds()
    spool, receiver = Spool(tmp_path, clock), Receiver()
    spool.put(report_of("a"))
    for number in range(10 * MAX_FAULTS):
        receiver.errors["a"] = ServerAway("no answer") if number > 3 else ServerFault("an error of the server")
        with pytest.raises(ServerAway):
            spool.flush(receiver.send)
        clock.now_s += FAULT_SECONDS
    assert names(tmp_path) == ["00000001.json"]

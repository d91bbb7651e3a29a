"""The lanes of a worker: which kinds of jobs are done side by side, and how many of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from server.compute import worker
from server.compute.presence import mark_presence
from server.compute.task import Compute, Task
from server.errors import DiskFull
from server.services import jobs, presence
from server.settings import Settings, load_settings
from server.wire import JobKind, JobStatus
from tests.server.compute.exporting_farm import compute_of
from tests.server.server_farm import Farm, attempts

PATIENCE_SECONDS = 60.0


@contextmanager
def working(compute: Compute, execute: worker.Execute) -> Iterator[None]:
    """The lanes of a worker while the block runs."""
    stop = threading.Event()
    threads = worker.lane_threads(compute, execute, stop, compute.database.hints)
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def enqueued(farm: Farm, *kinds: JobKind) -> list[str]:
    with farm.database.write() as session:
        return [jobs.enqueue(session, kind=kind, now=farm.clock()).id for kind in kinds]


def statuses(farm: Farm, job_ids: list[str]) -> list[str]:
    """Once all are finished."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with farm.database.read() as session:
            now = [jobs.get(session, job_id).status for job_id in job_ids]
        if all(JobStatus(status).finished for status in now):
            return now
        time.sleep(0.02)
    raise AssertionError(f"still {now}")


def test_every_kind_of_compute_job_has_one_lane() -> None:
    kinds = [kind for lane in worker.lanes(Settings()) for kind in lane.kinds]
    assert sorted(kinds) == sorted(jobs.COMPUTE_KINDS) and all(lane.threads == 1 for lane in worker.lanes(Settings()))


def test_threads_of_a_lane_are_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("ANSWER", "2"), ("CALIBRATION", "3"), ("CONVERSION", "4")):
        monkeypatch.setenv(f"ELASTICVIT_{name}_THREADS", count)
    assert {lane.name: lane.threads for lane in worker.lanes(load_settings())} == {
        "answers": 2,
        "calibrations": 3,
        "conversions": 4,
    }


@pytest.mark.medium
def test_lanes_work_side_by_side(farm: Farm) -> None:
    """Each job ends only when the others have begun."""
    job_ids = enqueued(farm, JobKind.SEARCH, JobKind.CALIBRATE, JobKind.CONVERT)
    together = threading.Barrier(len(job_ids))

    def execute(_task: Task) -> Mapping[str, Any]:
        together.wait(PATIENCE_SECONDS)
        return {}

    with working(compute_of(farm), execute):
        assert statuses(farm, job_ids) == ["succeeded"] * 3


@pytest.mark.medium
def test_two_threads_of_a_lane_do_two_jobs_at_once_under_names_of_their_own(farm: Farm) -> None:
    job_ids = enqueued(farm, JobKind.SEARCH, JobKind.SUBNET)
    together = threading.Barrier(2)

    def execute(_task: Task) -> Mapping[str, Any]:
        together.wait(PATIENCE_SECONDS)
        return {}

    with working(compute_of(farm, answer_threads=2), execute):
        assert statuses(farm, job_ids) == ["succeeded"] * 2
    with farm.database.read() as session:
        owners = {attempt.owner for job_id in job_ids for attempt in attempts(session, job_id)}
    assert len(owners) == 2


@pytest.mark.medium
def test_one_thread_of_a_lane_does_one_job_after_the_other(farm: Farm) -> None:
    job_ids = enqueued(farm, JobKind.SEARCH, JobKind.SEARCH, JobKind.SUBNET)
    running, highest, lock = [0], [0], threading.Lock()

    def execute(task: Task) -> Mapping[str, Any]:
        with lock:
            running[0] += 1
            highest[0] = max(highest[0], running[0])
        task.look()
        with lock:
            running[0] -= 1
        return {}

    with working(compute_of(farm), execute):
        assert statuses(farm, job_ids) == ["succeeded"] * 3
    assert highest == [1]


@pytest.mark.medium
@pytest.mark.parametrize("what", ["disk", "connection"])
def test_a_job_that_a_full_disk_or_a_lost_database_stopped_goes_on_and_has_not_failed(
    what: str, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REFUSED_SECONDS", 0.05)
    refusals = {
        "disk": DiskFull("no space left"),
        "connection": OperationalError("SELECT 1", {}, Exception("server closed"), connection_invalidated=True),
    }
    job_ids, tries = enqueued(farm, JobKind.SEARCH), list[int]()

    def execute(_task: Task) -> Mapping[str, Any]:
        tries.append(1)
        if len(tries) <= 5:
            raise refusals[what]
        return {}

    with working(compute_of(farm), execute):
        assert statuses(farm, job_ids) == ["succeeded"]
    with farm.database.read() as session:
        assert jobs.get(session, job_ids[0]).failures == 0 and len(tries) == 6


@pytest.mark.medium
def test_a_lane_that_dies_is_known_by_its_name(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("no lane survives this")

    monkeypatch.setattr(worker, "run_job", die)
    compute = compute_of(farm)
    enqueued(farm, JobKind.CONVERT)
    with working(compute, lambda _task: {}):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not compute.liveness.wrong() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert compute.liveness.wrong() == ["conversions-0 died of RuntimeError: no lane survives this"]


@pytest.mark.medium
def test_a_worker_marks_that_it_is_alive_while_it_works(farm: Farm) -> None:
    compute, stop = compute_of(farm, heartbeat_seconds=0.05), threading.Event()
    marks = compute.liveness.thread("presence", lambda pulse: mark_presence(compute, stop, pulse))
    marks.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    alive = (0, 0)
    while alive != (1, 1) and time.monotonic() < deadline:
        with farm.database.read() as session:
            alive = presence.seen(session, "worker", farm.clock(), timedelta(seconds=1))
    stop.set()
    marks.join()
    assert alive == (1, 1)

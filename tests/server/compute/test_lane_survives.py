"""Nothing that a job raises ends the thread of its lane, and every job gets an end that says something."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from elasticvit.errors import ExportError
from server.compute import worker
from server.compute.task import Compute, Task
from server.errors import BadValue
from server.services import claims, jobs
from server.wire import MAX_DETAIL_CHARS, JobKind
from tests.server.compute.exporting_farm import compute_of
from tests.server.compute.test_worker import enqueued, statuses, working
from tests.server.server_farm import Farm


class Panic(BaseException):
    """As a library in Rust raises."""


ERRORS: Mapping[str, Callable[[], BaseException]] = {
    "long library error": lambda: ExportError("x" * (MAX_DETAIL_CHARS + 1)),
    "empty library error": lambda: ExportError(""),
    "blank library error": lambda: ExportError(" \n "),
    "unstorable": lambda: ExportError("a\0b\ud800"),
    "long of the server": lambda: BadValue("y" * 5000),
    "empty of the server": lambda: BadValue(""),
    "long unexpected": lambda: RuntimeError("z" * 5000),
    "empty unexpected": RuntimeError,
    "panic": lambda: Panic("at the disco"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "no memory": MemoryError,
    "too deep": RecursionError,
    "no connection free": lambda: PoolTimeout("the pool is exhausted"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_whatever_a_job_raises_is_its_failure(farm: Farm, name: str) -> None:
    (job_id,) = enqueued(farm, JobKind.SUBNET)

    def execute(_task: Task) -> Mapping[str, Any]:
        raise ERRORS[name]()

    for _ in range(3):
        with farm.database.write() as session:
            claimed = claims.claim_compute(session, "by-hand", (JobKind.SUBNET,), farm.clock())
        if claimed is None:
            break
        worker.run_job(Task(compute_of(farm), claimed, threading.Event()), execute)
        farm.clock.pass_seconds(30)
    job = farm.ok("GET", f"/jobs/{job_id}")
    assert job["status"] == "failed" and 0 < len(job["error"]["detail"]) <= MAX_DETAIL_CHARS
    assert job["error"]["detail"].strip()
    if "empty" in name or "blank" in name:
        assert "Error" in job["error"]["detail"] or "BadValue" in job["error"]["detail"], "the error is named"


class BrokenDatabase:
    """A database that fails in a way that nobody thought of, from a moment on."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self.broken = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if self.broken and name in ("read", "write"):
            raise OSError("no space left on device")
        return getattr(self._farm.database, name)


def test_a_database_that_fails_while_a_job_fails_does_not_end_the_lane(farm: Farm) -> None:
    (job_id,) = enqueued(farm, JobKind.SUBNET)
    database = BrokenDatabase(farm)
    whole = compute_of(farm)
    compute = Compute(whole.settings, database, whole.blobs, whole.clock)  # type: ignore[arg-type]
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SUBNET,), farm.clock())
    assert claimed is not None

    def execute(_task: Task) -> Mapping[str, Any]:
        database.broken = True
        raise ExportError("this network cannot be written")

    worker.run_job(Task(compute, claimed, threading.Event()), execute)
    with farm.database.read() as session:
        assert jobs.get(session, job_id).status == "leased", "its lease runs out"


@pytest.mark.medium
def test_a_lane_goes_on_after_its_jobs_raised_everything(farm: Farm) -> None:
    job_ids = enqueued(farm, *[JobKind.SUBNET] * 3)
    raised = iter([SystemExit(1), Panic("once more"), None])

    def execute(_task: Task) -> Mapping[str, Any]:
        if (error := next(raised)) is not None:
            raise error
        return {}

    with farm.database.write() as session:
        for job_id in job_ids:
            jobs.get(session, job_id).max_attempts = 1
    with working(compute_of(farm), execute):
        assert sorted(statuses(farm, job_ids)) == ["failed", "failed", "succeeded"]

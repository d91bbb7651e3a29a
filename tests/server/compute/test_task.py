"""The measurements of a compute job over its attempts: a session belongs to the model that it measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from server.compute.task import Lost, Stopped, Task
from server.services import claims, job_ends, jobs, measurements, submissions
from server.store.tables import Job
from server.wire import JobKind, MeasureProtocol
from tests.server.compute.exporting_farm import compute_of
from tests.server.server_farm import Farm, session_body, tiny_tflite

PROTOCOL = MeasureProtocol()


@contextmanager
def attempt(farm: Farm, job_id: str) -> Iterator[Task]:
    """The next attempt of the job; at the end it is given back, as by a worker that stops."""
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SEARCH,), farm.clock())
    assert claimed is not None and claimed.job.id == job_id
    with Task(compute_of(farm), claimed, threading.Event()) as task:
        yield task
    with farm.database.write() as session:
        job_ends.release(session, claimed.lease_id, claimed.attempt, farm.clock())


@pytest.fixture
def search_id(farm: Farm) -> str:
    """The job of a search that its agent may measure for."""
    farm.agent()
    farm.anchor()
    with farm.database.write() as session:
        return jobs.enqueue(session, kind=JobKind.SEARCH, now=farm.clock(), device="host").id


def children(farm: Farm, job_id: str) -> list[Job]:
    with farm.database.read() as session:
        return list(jobs.children(session, job_id))


def report(farm: Farm, model_ms: float) -> None:
    """The agent measures what waits."""
    lease = farm.lease(farm.agent())
    assert lease is not None and farm.report(lease, session_body(model_ms=model_ms)).status_code == 200


def test_a_retried_search_measures_another_model_by_a_session_of_its_own(farm: Farm, search_id: str) -> None:
    model_a, model_b = farm.upload(tiny_tflite(1.0)), farm.upload(tiny_tflite(2.0))
    with attempt(farm, search_id) as first:
        first.measure(model_a, "host", "verify", PROTOCOL, 10)
    report(farm, model_ms=2.0)
    with attempt(farm, search_id) as second:
        job_id = second.measure(model_b, "host", "verify", PROTOCOL, 10)
        with farm.database.read() as session:
            assert jobs.get(session, job_id).status == "queued", "it does not take the session of the other file"
        report(farm, model_ms=3.0)
        measured_a = second.measured(model_a, "host", "verify", PROTOCOL, 10)
        measured_b = second.measured(model_b, "host", "verify", PROTOCOL, 10)
    assert measured_a is not None and measured_a.model_id == model_a
    assert measured_a.p50_raw_ms == pytest.approx(2.0, rel=0.01)
    assert measured_b is not None and measured_b.model_id == model_b
    assert measured_b.p50_raw_ms == pytest.approx(3.0, rel=0.01)
    models = sorted(str(child.model_id) for child in children(farm, search_id))
    assert models == sorted([model_a, model_b]), "one session for each"


def test_sessions_differ_by_key_protocol_and_device(farm: Farm, search_id: str) -> None:
    farm.agent(devices=("host", "phone"))
    model_id = farm.upload()
    sessions = [
        ("host", "verify", PROTOCOL),
        ("host", "verify-again", PROTOCOL),
        ("phone", "verify", PROTOCOL),
        ("host", "verify", MeasureProtocol(threads=2)),
        ("host", "verify", MeasureProtocol(profile=True)),
    ]
    with attempt(farm, search_id) as task:
        for _ in range(2):
            for device, key, protocol in sessions:
                task.measure(model_id, device, key, protocol, 10)
    assert len(children(farm, search_id)) == len(sessions)


def test_a_session_of_an_older_version_is_not_taken_for_another_model(farm: Farm, search_id: str) -> None:
    """Older versions queued children under keys without the model, such as `verify-0-0`."""
    model_a, model_b = farm.upload(tiny_tflite(1.0)), farm.upload(tiny_tflite(2.0))
    with farm.database.write() as session:
        old_id = submissions.measure(
            session, model_a, "host", PROTOCOL, farm.clock(), parent_id=search_id, key="verify-0-0"
        ).id
    report(farm, model_ms=2.0)
    with attempt(farm, search_id) as task:
        new_id = task.measure(model_b, "host", "verify", PROTOCOL, 10)
    assert new_id != old_id
    assert {job["id"] for job in farm.ok("GET", f"/jobs?parent_id={search_id}")["items"]} == {old_id, new_id}
    with farm.database.read() as session:
        assert measurements.of_job(session, old_id, model_b) is None
        of_a = measurements.of_job(session, old_id, model_a)
        assert of_a is not None and of_a.model_id == model_a


def test_a_session_that_failed_is_no_measurement(farm: Farm, search_id: str) -> None:
    model_id = farm.upload()
    with attempt(farm, search_id) as task:
        task.measure(model_id, "host", "verify", PROTOCOL, 10)
        lease = farm.lease(farm.agent())
        assert lease is not None
        failure = {"kind": "user", "detail": "this file does not run here"}
        assert farm.report(lease, outcome="failed", failure=failure).status_code == 200
        assert task.measured(model_id, "host", "verify", PROTOCOL, 10) is None


def test_waiting_ends_with_a_stop_and_with_a_cancellation(farm: Farm, search_id: str) -> None:
    model_id = farm.upload()
    with attempt(farm, search_id) as task:
        task.stop.set()
        with pytest.raises(Stopped):
            task.measured(model_id, "host", "verify", PROTOCOL, 10)
    farm.clock.now += timedelta(seconds=1)
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SEARCH,), farm.clock())
        assert claimed is not None
        job_ends.cancel(session, search_id, farm.clock())
    with Task(compute_of(farm), claimed, threading.Event()) as task, pytest.raises(Lost):
        task.measured(model_id, "host", "verify", PROTOCOL, 10)

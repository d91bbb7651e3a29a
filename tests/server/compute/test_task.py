"""The measurements of a compute job over its attempts: a session belongs to the model that it measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.compute.sessions import SessionOrder, Wait
from server.compute.task import Lost, Stopped, Task
from server.errors import StaleLease
from server.services import claims, job_ends, jobs, measurements, submissions
from server.store.tables import Job
from server.wire import JobKind, MeasureProtocol
from tests.server.compute.exporting_farm import compute_of
from tests.server.server_farm import Farm, attempts, session_body, tiny_tflite

PROTOCOL = MeasureProtocol()
PATIENCE_SECONDS = 60.0


@contextmanager
def attempt(farm: Farm, job_id: str) -> Iterator[Task]:
    """The next attempt of the job; at the end it is given back, as by a worker that stops, if it was not parked."""
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SEARCH,), farm.clock())
    assert claimed is not None and claimed.job.id == job_id
    with Task(compute_of(farm), claimed, threading.Event()) as task:
        yield task
    try:
        with farm.database.write() as session:
            job_ends.release(session, claimed.lease_id, claimed.attempt, farm.clock())
    except StaleLease:
        pass


@pytest.fixture
def search_id(farm: Farm) -> str:
    """The job of a search that its agent may measure for."""
    farm.agent()
    farm.anchor()
    with farm.database.write() as session:
        return jobs.enqueue(session, kind=JobKind.SEARCH, now=farm.clock(), device="host").id


def order(
    model_id: str, device: str = "host", key: str = "verify", protocol: MeasureProtocol = PROTOCOL
) -> SessionOrder:
    return SessionOrder(model_id, device, key, protocol, 10)


def wait(*orders: SessionOrder) -> Wait:
    return Wait(orders, "measuring on host", {"step": 1})


def children(farm: Farm, job_id: str) -> list[Job]:
    with farm.database.read() as session:
        return list(jobs.children(session, job_id))


def report(farm: Farm, model_ms: float) -> None:
    """The agent measures what waits."""
    lease = farm.lease(farm.agent())
    assert lease is not None and farm.report(lease, session_body(model_ms=model_ms)).status_code == 200


def measured_ms(task: Task, model_id: str) -> float:
    end = task.session_end(order(model_id))
    assert end is not None and end.measurement is not None and end.measurement.model_id == model_id
    return end.measurement.p50_raw_ms


def test_a_search_goes_on_from_its_checkpoint_when_its_last_session_is_reported(farm: Farm, search_id: str) -> None:
    model_a, model_b = farm.upload(tiny_tflite(1.0)), farm.upload(tiny_tflite(2.0))
    with attempt(farm, search_id) as first:
        assert first.job.checkpoint is None
        first.park(wait(order(model_a), order(model_b)))
    view = farm.ok("GET", f"/jobs/{search_id}")
    assert view["status"] == "running" and view["wait_until"] is not None
    assert view["progress"]["stage"] == "measuring on host" and "2 measurements" in view["progress"]["detail"]
    report(farm, model_ms=2.0)
    view = farm.ok("GET", f"/jobs/{search_id}")
    assert view["status"] == "running" and (view["progress"]["done"], view["progress"]["total"]) == (1, 2)
    report(farm, model_ms=3.0)
    assert farm.ok("GET", f"/jobs/{search_id}")["status"] == "queued", "at once, by the report itself"
    with attempt(farm, search_id) as second:
        assert second.job.checkpoint == {"step": 1}
        assert measured_ms(second, model_a) == pytest.approx(2.0, rel=0.01)
        assert measured_ms(second, model_b) == pytest.approx(3.0, rel=0.01)
    with farm.database.read() as session:
        outcomes = [tried.outcome for tried in attempts(session, search_id)]
        assert jobs.get(session, search_id).failures == 0
    assert outcomes == ["parked", "released"]


def test_a_retried_search_measures_another_model_by_a_session_of_its_own(farm: Farm, search_id: str) -> None:
    model_a, model_b = farm.upload(tiny_tflite(1.0)), farm.upload(tiny_tflite(2.0))
    with attempt(farm, search_id) as first:
        first.park(wait(order(model_a)))
    report(farm, model_ms=2.0)
    with attempt(farm, search_id) as second:
        assert second.session_end(order(model_b)) is None, "it does not take the session of the other file"
        second.park(wait(order(model_b)))
    report(farm, model_ms=3.0)
    with attempt(farm, search_id) as third:
        assert measured_ms(third, model_a) == pytest.approx(2.0, rel=0.01)
        assert measured_ms(third, model_b) == pytest.approx(3.0, rel=0.01)
    models = sorted(str(child.model_id) for child in children(farm, search_id))
    assert models == sorted([model_a, model_b]), "one session for each"


def test_sessions_differ_by_key_protocol_and_device(farm: Farm, search_id: str) -> None:
    farm.agent(devices=("host", "phone"))
    model_id = farm.upload()
    sessions = [
        order(model_id),
        order(model_id, key="verify-again"),
        order(model_id, "phone"),
        order(model_id, protocol=MeasureProtocol(threads=2)),
        order(model_id, protocol=MeasureProtocol(profile=True)),
    ]
    with attempt(farm, search_id) as task:
        task.park(wait(*sessions, *sessions))
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
        task.park(wait(order(model_b)))
    (new_id,) = {child.id for child in children(farm, search_id)} - {old_id}
    with farm.database.read() as session:
        assert jobs.get(session, new_id).model_id == model_b
        assert measurements.of_job(session, old_id, model_b) is None
        of_a = measurements.of_job(session, old_id, model_a)
        assert of_a is not None and of_a.model_id == model_a


def test_a_session_that_failed_is_no_measurement(farm: Farm, search_id: str) -> None:
    model_id = farm.upload()
    with attempt(farm, search_id) as task:
        task.park(wait(order(model_id)))
    lease = farm.lease(farm.agent())
    assert lease is not None
    failure = {"kind": "user", "detail": "this file does not run here"}
    assert farm.report(lease, outcome="failed", failure=failure).status_code == 200
    with attempt(farm, search_id) as task:
        end = task.session_end(order(model_id))
        assert end is not None and end.measurement is None


def test_a_stop_is_noticed_and_a_cancelled_job_is_not_parked(farm: Farm, search_id: str) -> None:
    model_id = farm.upload()
    with attempt(farm, search_id) as task:
        task.stop.set()
        with pytest.raises(Stopped):
            task.check()
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SEARCH,), farm.clock())
        assert claimed is not None
        job_ends.cancel(session, search_id, farm.clock())
    with Task(compute_of(farm), claimed, threading.Event()) as task, pytest.raises(Lost):
        task.look()
    with pytest.raises(StaleLease):
        task.park(Wait((), "measuring on host", {}))
    assert children(farm, search_id) == [] and model_id


def test_a_cancellation_is_noticed_without_a_look(farm: Farm, search_id: str) -> None:
    """By the thread that keeps the lease, long before a renewal is due."""
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SEARCH,), farm.clock())
    assert claimed is not None
    with Task(compute_of(farm), claimed, threading.Event()) as task:
        with farm.database.write() as session:
            job_ends.cancel(session, search_id, farm.clock())
        deadline = time.monotonic() + PATIENCE_SECONDS
        with pytest.raises(Lost):
            while time.monotonic() < deadline:
                task.check()
                time.sleep(0.02)

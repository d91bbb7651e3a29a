"""Which job is claimed next: owners share, failures are tried again later and later, absences are not counted."""

from __future__ import annotations

import pytest

from server.services import claims, job_ends, jobs, lease_expiry
from server.store.db import Database
from server.store.tables import Device
from server.wire import Failure, JobKind, JobStatus
from tests.server.server_farm import Clock, Farm

DEVICE = Failure(kind="device", detail="the phone does not answer")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def queue(database: Database, clock: Clock, owner: str | None, count: int = 1, priority: int = 0) -> list[str]:
    clock.pass_seconds(1)
    with database.write() as session:
        return [
            jobs.enqueue(session, kind=JobKind.SUBNET, now=clock(), owner=owner, priority=priority).id
            for _ in range(count)
        ]


def claim(database: Database, clock: Clock) -> claims.Claimed | None:
    clock.pass_seconds(1)
    with database.write() as session:
        return claims.claim_compute(session, "worker-1", (JobKind.SUBNET,), clock(), 60)


def claimed(database: Database, clock: Clock) -> claims.Claimed:
    taken = claim(database, clock)
    assert taken is not None
    return taken


def finish(database: Database, clock: Clock, taken: claims.Claimed) -> None:
    with database.write() as session:
        job_ends.finish(session, taken.lease_id, taken.attempt, {}, clock())


def test_one_worker_serves_owners_in_turns(database: Database, clock: Clock) -> None:
    queue(database, clock, "greedy", 4)
    queue(database, clock, "modest", 2)
    queue(database, clock, None, 1)
    served = []
    for _ in range(7):
        taken = claimed(database, clock)
        served.append(taken.job.owner)
        finish(database, clock, taken)
    assert served[:3] == ["greedy", "modest", None]
    assert served[3:] == ["greedy", "modest", "greedy", "greedy"]


def test_who_holds_the_fewest_leases_comes_first(database: Database, clock: Clock) -> None:
    queue(database, clock, "greedy", 3)
    assert [claimed(database, clock).job.owner for _ in range(2)] == ["greedy"] * 2
    queue(database, clock, "modest", 2)
    assert [claimed(database, clock).job.owner for _ in range(3)] == ["modest", "modest", "greedy"]


def test_a_higher_priority_goes_before_any_share(database: Database, clock: Clock) -> None:
    queue(database, clock, "modest")
    queue(database, clock, "greedy", 2, priority=10)
    assert [claimed(database, clock).job.owner for _ in range(3)] == ["greedy", "greedy", "modest"]


def test_an_owners_jobs_are_done_in_their_order(database: Database, clock: Clock) -> None:
    queued = [job_id for _ in range(3) for job_id in queue(database, clock, "modest")]
    assert [claimed(database, clock).job.id for _ in range(3)] == queued


def test_each_failure_delays_the_next_attempt_longer(database: Database, clock: Clock) -> None:
    with database.write() as session:
        jobs.enqueue(session, kind=JobKind.SUBNET, now=clock(), max_attempts=9)
    for delay_seconds in (1, 5, 25, 125, 300, 300):
        taken = claimed(database, clock)
        with database.write() as session:
            job = job_ends.fail(session, taken.lease_id, taken.attempt, DEVICE, clock())
            assert job.not_before is not None and (job.not_before - clock()).total_seconds() == delay_seconds
        with database.read() as session:
            assert not claims.waiting(session, (JobKind.SUBNET,), now=clock())
        if delay_seconds > 1:
            clock.pass_seconds(delay_seconds - 2)
            assert claim(database, clock) is None
        clock.pass_seconds(1)


@pytest.mark.parametrize("gone", ["silent", "unregistered"])
@pytest.mark.parametrize("how", ["reported", "expired"])
def test_the_absence_of_a_device_is_no_failure_of_the_job(any_farm: Farm, gone: str, how: str) -> None:
    agent_id = any_farm.agent(devices=("phone",))
    job_id = any_farm.measure_job("phone")
    for attempt in range(1, 6):
        if attempt > 1:
            any_farm.clock.pass_seconds(400)
            any_farm.agent(devices=("phone",))
        lease = any_farm.lease(agent_id, "phone")
        assert lease is not None and lease["attempt"] == attempt
        if gone == "unregistered":
            with any_farm.database.write() as session:
                device = session.get_one(Device, "phone")
                device.state = "offline"
                session.add(device)
        else:
            any_farm.clock.pass_seconds(30)
        if how == "reported":
            assert any_farm.report(lease, outcome="failed", failure=DEVICE.model_dump()).json()["status"] == "queued"
        else:
            any_farm.clock.pass_seconds(61)
            with any_farm.database.write() as session:
                assert lease_expiry.sweep(session, any_farm.clock()) == 1
        with any_farm.database.read() as session:
            job = jobs.get(session, job_id)
        assert (job.status, job.failures) == (JobStatus.QUEUED, 0)


def test_a_job_that_takes_its_device_down_each_time_ends(any_farm: Farm) -> None:
    agent_id = any_farm.agent(devices=("phone",))
    job_id = any_farm.measure_job("phone")
    for _ in range(18):
        any_farm.agent(devices=("phone",))
        lease = any_farm.lease(agent_id, "phone")
        if lease is None:
            break
        any_farm.clock.pass_seconds(61)
        with any_farm.database.write() as session:
            lease_expiry.sweep(session, any_farm.clock())
    job = any_farm.ok("GET", f"/jobs/{job_id}")
    assert job["status"] == "failed" and "quarantined" in job["error"]["detail"]

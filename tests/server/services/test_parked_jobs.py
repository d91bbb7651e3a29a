"""Parked jobs: they hold no lease, go on when their last child ends, and fail at their deadline; on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlmodel import update

from server.errors import StaleLease
from server.services import claims, job_ends, jobs, lease_expiry, parked, sweeping
from server.services.parked import Waiting
from server.store.db import Database
from server.store.tables import Job
from server.wire import Failure, JobKind, JobStatus
from tests.server.server_farm import START, Clock, attempts

CHECKPOINT = {"chosen": [[1, 2, 3]], "bound_ms": 4.5}
HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def claim(database: Database, clock: Clock, kind: JobKind = JobKind.SEARCH) -> claims.Claimed:
    with database.write() as session:
        if kind is JobKind.MEASURE:
            claimed = claims.claim_device(session, "agent-1", ["phone"], clock(), 60)
        else:
            claimed = claims.claim_compute(session, "worker-1", (kind,), clock(), 60)
    assert claimed is not None
    return claimed


def child(database: Database, parent_id: str, key: str) -> str:
    with database.write() as session:
        return jobs.enqueue(session, kind=JobKind.MEASURE, now=START, device="phone", parent_id=parent_id, key=key).id


def park(database: Database, claimed: claims.Claimed, clock: Clock, *job_ids: str) -> bool:
    waiting = Waiting(job_ids, "measuring on phone", CHECKPOINT, HOUR)
    with database.write() as session:
        return parked.park(session, claimed.lease_id, claimed.attempt, waiting, clock())


def parked_search(database: Database, clock: Clock, children: int) -> tuple[str, list[str]]:
    """A search that waits for some children; the ids."""
    with database.write() as session:
        search_id = jobs.enqueue(session, kind=JobKind.SEARCH, now=START, device="phone", owner="token-1").id
    claimed = claim(database, clock)
    child_ids = [child(database, search_id, f"verify-{number}") for number in range(children)]
    assert park(database, claimed, clock, *child_ids)
    return search_id, child_ids


def finish(database: Database, clock: Clock, claimed: claims.Claimed) -> None:
    with database.write() as session:
        job_ends.finish(session, claimed.lease_id, claimed.attempt, {"done": True}, clock())


def job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return jobs.get(session, job_id)


def sweep(database: Database, clock: Clock) -> dict[str, int]:
    with database.write() as session:
        return sweeping.sweep(session, clock())


def test_a_parked_job_runs_without_a_lease_and_is_not_swept(database: Database, clock: Clock) -> None:
    search_id, child_ids = parked_search(database, clock, 2)
    row = job(database, search_id)
    assert (row.status, row.lease_id, row.lease_expires_at) == (JobStatus.RUNNING, None, None)
    assert (row.waits_for, row.checkpoint) == (child_ids, CHECKPOINT)
    assert row.wait_reason is not None and "offline" in row.wait_reason, "the device is not known"
    assert row.progress is not None and row.progress["detail"] == row.wait_reason
    clock.pass_seconds(HOUR - 1)
    with database.write() as session:
        assert lease_expiry.sweep(session, clock()) == 0
        assert lease_expiry.expire(session, jobs.COMPUTE_KINDS, clock()) == 0, "as a worker does when it starts"
    assert sweep(database, clock) == {} and job(database, search_id).status == JobStatus.RUNNING
    with database.read() as session:
        assert [tried.outcome for tried in attempts(session, search_id)] == ["parked"]


def test_the_attempt_that_was_parked_can_change_nothing_any_more(database: Database, clock: Clock) -> None:
    with database.write() as session:
        search_id = jobs.enqueue(session, kind=JobKind.SEARCH, now=START, device="phone").id
    claimed = claim(database, clock)
    assert park(database, claimed, clock, child(database, search_id, "verify"))
    for change in (
        lambda session: claims.renew(session, claimed.lease_id, claimed.attempt, clock()),
        lambda session: job_ends.finish(session, claimed.lease_id, claimed.attempt, {}, clock()),
        lambda session: job_ends.release(session, claimed.lease_id, claimed.attempt, clock()),
    ):
        with pytest.raises(StaleLease), database.write() as session:
            change(session)
    assert job(database, search_id).wait_until is not None


@pytest.mark.parametrize("end", ["finish", "fail", "cancel", "expire"])
def test_it_goes_on_however_its_last_child_ends(database: Database, clock: Clock, end: str) -> None:
    search_id, child_ids = parked_search(database, clock, 2)
    finish(database, clock, claim(database, clock, JobKind.MEASURE))
    row = job(database, search_id)
    assert row.status == JobStatus.RUNNING and row.progress is not None and row.progress["done"] == 1
    (last_id,) = (job_id for job_id in child_ids if not JobStatus(job(database, job_id).status).finished)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == last_id).values(max_attempts=1))  # type: ignore[arg-type]
    if end == "cancel":
        with database.write() as session:
            job_ends.cancel(session, last_id, clock())
    else:
        claimed = claim(database, clock, JobKind.MEASURE)
        if end == "finish":
            finish(database, clock, claimed)
        elif end == "fail":
            with database.write() as session:
                failure = Failure(kind="user", detail="this file does not run")
                job_ends.fail(session, claimed.lease_id, claimed.attempt, failure, clock())
        else:
            with database.write() as session:
                session.execute(update(Job).where(Job.id == last_id).values(max_attempts=0))  # type: ignore[arg-type]
            clock.pass_seconds(61)
            assert "leases expired" in sweep(database, clock)
    row = job(database, search_id)
    assert (row.status, row.waits_for, row.wait_until) == (JobStatus.QUEUED, None, None)
    again = claim(database, clock)
    assert again.job.id == search_id and again.job.checkpoint == CHECKPOINT and again.job.failures == 0
    finish(database, clock, again)
    assert job(database, search_id).checkpoint is None


def test_two_last_children_that_finish_at_once_let_it_go_on_once(database: Database, clock: Clock) -> None:
    for _ in range(5):
        search_id, _ = parked_search(database, clock, 2)
        held = [claim(database, clock, JobKind.MEASURE) for _ in range(2)]
        both = Barrier(2)

        def end(claimed: claims.Claimed, both: Barrier = both) -> None:
            both.wait()
            finish(database, clock, claimed)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(end, held))
        assert job(database, search_id).status == JobStatus.QUEUED, "neither saw the other's end"
        finish(database, clock, claim(database, clock))


def test_a_child_that_ends_while_its_parent_is_parked_is_not_missed(database: Database, clock: Clock) -> None:
    for _ in range(5):
        with database.write() as session:
            search_id = jobs.enqueue(session, kind=JobKind.SEARCH, now=START, device="phone").id
        claimed = claim(database, clock)
        child_id = child(database, search_id, "verify")
        held = claim(database, clock, JobKind.MEASURE)
        both = Barrier(2)

        def end(both: Barrier = both, held: claims.Claimed = held) -> None:
            both.wait()
            finish(database, clock, held)

        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(end)
            both.wait()
            park(database, claimed, clock, child_id)
            ending.result()
        assert job(database, search_id).status == JobStatus.QUEUED
        finish(database, clock, claim(database, clock))


def test_with_nothing_to_wait_for_it_is_queued_at_once(database: Database, clock: Clock) -> None:
    with database.write() as session:
        search_id = jobs.enqueue(session, kind=JobKind.SEARCH, now=START, device="phone").id
    claimed = claim(database, clock)
    child_id = child(database, search_id, "verify")
    finish(database, clock, claim(database, clock, JobKind.MEASURE))
    assert not park(database, claimed, clock, child_id)
    assert claim(database, clock).job.checkpoint == CHECKPOINT


def test_at_its_deadline_it_fails_and_says_what_to_do(database: Database, clock: Clock) -> None:
    search_id, child_ids = parked_search(database, clock, 1)
    clock.pass_seconds(HOUR)
    assert sweep(database, clock) == {"parked jobs failed at their deadline": 1}
    row = job(database, search_id)
    assert row.status == JobStatus.FAILED and row.failure is not None and row.failure["kind"] == "device"
    assert "'phone'" in row.failure["detail"] and f"/jobs/{search_id}/retry" in row.failure["detail"]
    assert job(database, child_ids[0]).status == JobStatus.CANCELLED
    assert sweep(database, clock) == {}


def test_one_whose_children_ended_unseen_is_found_by_the_sweep(database: Database, clock: Clock) -> None:
    """As after a crash of a version that did it in two transactions, or a hand in the database."""
    search_id, child_ids = parked_search(database, clock, 1)
    with database.write() as session:
        session.execute(update(Job).where(Job.id == child_ids[0]).values(status="succeeded"))  # type: ignore[arg-type]
    assert sweep(database, clock) == {"parked jobs queued again": 1}
    assert claim(database, clock).job.id == search_id


def test_a_parked_job_can_be_cancelled_with_its_children(database: Database, clock: Clock) -> None:
    search_id, child_ids = parked_search(database, clock, 2)
    with database.write() as session:
        job_ends.cancel(session, search_id, clock())
    assert [job(database, job_id).status for job_id in (search_id, *child_ids)] == [JobStatus.CANCELLED] * 3
    assert sweep(database, clock) == {}


def test_a_failure_begins_anew_without_the_checkpoint(database: Database, clock: Clock) -> None:
    search_id, child_ids = parked_search(database, clock, 1)
    with database.write() as session:
        job_ends.cancel(session, child_ids[0], clock())
    claimed = claim(database, clock)
    assert claimed.job.checkpoint == CHECKPOINT
    with database.write() as session:
        failure = Failure(kind="infra", detail="the disk is full")
        job_ends.fail(session, claimed.lease_id, claimed.attempt, failure, clock())
    clock.pass_seconds(1)
    assert claim(database, clock).job.checkpoint is None and job(database, search_id).failures == 1

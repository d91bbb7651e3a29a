"""The clock is set while jobs are leased or parked: none expires by it, and none waits longer than it should."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from server.api.sweeper import Sweeper
from server.services import clock_jumps, jobs, sweeping
from server.services.clock_jumps import Jumps, Longest
from server.services.job_ends import MAX_DELAY_SECONDS
from server.store.db import Database
from server.store.tables import Job
from server.wire import JobKind, JobStatus
from tests.server.server_farm import START, Clock
from tests.server.services.test_parked_jobs import HOUR, claim, job, parked_search

LONGEST = Longest(lease_seconds=60.0, search_wait_seconds=HOUR, calibration_wait_seconds=24 * HOUR)
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Monotonic:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def settle(database: Database, clock: Clock, jump: timedelta = timedelta(0)) -> int:
    with database.write() as session:
        return clock_jumps.settle(session, clock(), jump, LONGEST)


def test_only_time_that_the_other_clock_did_not_see_is_a_jump() -> None:
    clock, monotonic = Clock(), Monotonic()
    jumps = Jumps(monotonic)
    clock.pass_seconds(1e6)
    assert jumps.since_last(clock()) == timedelta(0), "there was no look before"
    clock.pass_seconds(500)
    monotonic.seconds += 495
    assert jumps.since_last(clock()) == timedelta(0)
    clock.pass_seconds(3605)
    monotonic.seconds += 5
    assert jumps.since_last(clock()) == timedelta(hours=1)
    assert jumps.since_last(clock()) == timedelta(0)
    clock.pass_seconds(-7200)
    assert jumps.since_last(clock()) == timedelta(0)


@pytest.mark.parametrize("hours", [1, 24 * 365])
def test_a_jump_forwards_ends_no_wait_and_no_lease(database: Database, clock: Clock, hours: int) -> None:
    search_id, (child_id,) = parked_search(database, clock, 1)
    claim(database, clock, JobKind.MEASURE)
    clock.pass_seconds(3600.0 * hours)
    for _ in range(2):  # of two processes both see it
        settle(database, clock, timedelta(hours=hours))
    with database.write() as session:
        assert sweeping.sweep(session, clock()) == {}
    assert job(database, search_id).wait_until == clock() + timedelta(seconds=HOUR)
    assert job(database, child_id).lease_expires_at == clock() + timedelta(seconds=LONGEST.lease_seconds)
    clock.pass_seconds(61)
    with database.write() as session:
        assert sweeping.sweep(session, clock()) == {"leases expired": 1}


def test_after_a_jump_backwards_nothing_waits_longer_than_ever(database: Database, clock: Clock) -> None:
    search_id, (child_id,) = parked_search(database, clock, 1)
    claim(database, clock, JobKind.MEASURE)
    clock.pass_seconds(-DAY.total_seconds())
    assert settle(database, clock) == 2
    assert settle(database, clock) == 0
    assert job(database, search_id).wait_until == clock() + timedelta(seconds=HOUR)
    assert job(database, child_id).lease_expires_at == clock() + timedelta(seconds=60)


def test_a_retry_is_not_put_off_by_a_jump_backwards(database: Database, clock: Clock) -> None:
    with database.write() as session:
        job_id = jobs.enqueue(session, kind=JobKind.SUBNET, now=START).id
        session.execute(update(Job).where(col(Job.id) == job_id).values(not_before=START + DAY))
    assert settle(database, clock) == 1
    assert job(database, job_id).not_before == START + timedelta(seconds=MAX_DELAY_SECONDS)


def test_without_a_jump_no_time_changes(database: Database, clock: Clock) -> None:
    parked_search(database, clock, 1)
    claim(database, clock, JobKind.MEASURE)
    clock.pass_seconds(20)
    assert settle(database, clock) == 0


def test_the_sweeper_moves_what_it_would_have_ended(database: Database, clock: Clock) -> None:
    search_id, _children = parked_search(database, clock, 1)
    sweeper = Sweeper(database, clock, 5.0, LONGEST)
    sweeper.sweep()
    clock.pass_seconds(2 * HOUR)
    sweeper.sweep()
    assert job(database, search_id).status == JobStatus.RUNNING


def test_a_jump_while_the_database_refuses_is_not_forgotten(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, _children = parked_search(database, clock, 1)
    sweeper = Sweeper(database, clock, 5.0, LONGEST)
    sweeper.sweep()

    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("server.services.presence.mark", refuse)
        clock.pass_seconds(2 * HOUR)
        sweeper._try()
        clock.pass_seconds(2 * HOUR)
        sweeper._try()
    assert sweeper.last.failures == 2
    sweeper._try()
    assert sweeper.last.failures == 0 and job(database, search_id).status == JobStatus.RUNNING

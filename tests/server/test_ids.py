"""Ids sort by creation, also within one millisecond and from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from server.ids import Ids, new_id
from server.services import claims, jobs
from server.wire import JobKind
from tests.server.server_farm import Farm

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_ids_of_one_millisecond_sort_in_the_order_in_which_they_were_made() -> None:
    ids = [new_id("job", NOW) for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert all(len(made) == len("job-") + 11 + 8 for made in ids)


def test_a_later_id_sorts_later_whatever_was_made_before() -> None:
    maker = Ids()
    ids = [maker.new("job", NOW + timedelta(milliseconds=step // 3)) for step in range(300)]
    assert ids == sorted(ids)


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: new_id("job", NOW), range(4000)))
    assert len(set(ids)) == len(ids)


def test_two_processes_do_not_count_from_the_same_number() -> None:
    assert Ids().new("job", NOW) != Ids().new("job", NOW)


def test_jobs_that_were_queued_together_are_claimed_in_their_order(farm: Farm) -> None:
    with farm.database.write() as session:
        queued = [jobs.enqueue(session, kind=JobKind.SEARCH, now=farm.clock(), device="host").id for _ in range(8)]
    claimed = []
    for _ in queued:
        with farm.database.write() as session:
            taken = claims.claim_compute(session, "by-hand", (JobKind.SEARCH,), farm.clock())
            assert taken is not None
            claimed.append(taken.job.id)
    assert claimed == queued

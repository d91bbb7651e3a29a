"""The queue: one claimer gets a job, an expired lease is a new attempt, a finished job does not change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from server.errors import Finished, NotFound, StaleLease
from server.services import claims, job_ends, jobs, lease_expiry
from server.store.db import Database
from server.store.tables import Job
from server.wire import Failure, JobKind, JobStatus, Progress
from tests.server.server_farm import START, Clock, attempts

KINDS = (JobKind.SEARCH, JobKind.SUBNET, JobKind.CALIBRATE)
INFRA = Failure(kind="infra", detail="the disk is full")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def queue(database: Database, kind: JobKind = JobKind.SEARCH, priority: int = 0, max_attempts: int = 3) -> str:
    with database.write() as session:
        return jobs.enqueue(session, kind=kind, now=START, priority=priority, max_attempts=max_attempts).id


def claim(database: Database, clock: Clock, worker: str = "worker-1") -> claims.Claimed | None:
    with database.write() as session:
        return claims.claim_compute(session, worker, KINDS, clock(), 60)


def claimed(database: Database, clock: Clock) -> claims.Claimed:
    taken = claim(database, clock)
    assert taken is not None
    return taken


def job(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return jobs.get(session, job_id)


def sweep(database: Database, clock: Clock) -> int:
    with database.write() as session:
        return lease_expiry.sweep(session, clock())


def child_of(database: Database, parent: str, key: str) -> str:
    with database.write() as session:
        return jobs.enqueue(session, kind=JobKind.MEASURE, now=START, device="host", parent_id=parent, key=key).id


def claim_children(database: Database, clock: Clock, *job_ids: str) -> dict[str, claims.Claimed]:
    """Claim these measuring jobs, and give back the others."""
    leases = {}
    with database.write() as session:
        while (taken := claims.claim_device(session, "agent-1", ["host"], clock(), 60)) is not None:
            leases[taken.job.id] = taken
        for job_id, taken in leases.items():
            if job_id not in job_ids:
                job_ends.release(session, taken.lease_id, taken.attempt, clock())
    return {job_id: leases[job_id] for job_id in job_ids}


class TestQueue:
    """The contract of the queue, the same on every database."""

    def test_of_many_claimers_exactly_one_gets_each_job(self, database: Database, clock: Clock) -> None:
        queued = [queue(database) for _ in range(5)]
        start = Barrier(8)

        def work(number: int) -> list[str]:
            start.wait()
            taken = []
            while (got := claim(database, clock, f"worker-{number}")) is not None:
                taken.append(got.job.id)
            return taken

        with ThreadPoolExecutor(8) as pool:
            taken = [job_id for job_ids in pool.map(work, range(8)) for job_id in job_ids]
        assert sorted(taken) == sorted(queued)
        assert all(job(database, job_id).attempts == 1 for job_id in queued)

    def test_the_oldest_comes_first_unless_another_is_more_urgent(self, database: Database, clock: Clock) -> None:
        with database.write() as session:
            first = jobs.enqueue(session, kind=JobKind.CALIBRATE, now=START).id
            clock.pass_seconds(1)
            second = jobs.enqueue(session, kind=JobKind.CALIBRATE, now=clock()).id
            urgent = jobs.enqueue(session, kind=JobKind.SEARCH, now=clock(), priority=10).id
        assert [claimed(database, clock).job.id for _ in range(3)] == [urgent, first, second]
        assert claim(database, clock) is None

    def test_a_job_goes_from_queued_to_succeeded(self, database: Database, clock: Clock) -> None:
        job_id = queue(database)
        taken = claimed(database, clock)
        assert job(database, job_id).status == JobStatus.LEASED
        with database.write() as session:
            claims.renew(session, taken.lease_id, 1, clock(), 60, Progress(stage="searching", done=3, total=10))
        assert job(database, job_id).status == JobStatus.RUNNING
        with database.write() as session:
            job_ends.finish(session, taken.lease_id, 1, {"models": []}, clock())
        done = job(database, job_id)
        assert (done.status, done.result, done.lease_expires_at) == (JobStatus.SUCCEEDED, {"models": []}, None)
        assert done.progress is not None and done.progress["done"] == 3
        with database.read() as session:
            assert [attempt.outcome for attempt in attempts(session, job_id)] == ["succeeded"]

    def test_an_expired_lease_is_a_new_attempt_and_the_old_holder_is_stale(
        self, database: Database, clock: Clock
    ) -> None:
        job_id = queue(database)
        first = claimed(database, clock)
        clock.pass_seconds(59)
        assert sweep(database, clock) == 0
        clock.pass_seconds(2)
        assert sweep(database, clock) == 1
        assert sweep(database, clock) == 0
        assert job(database, job_id).status == JobStatus.QUEUED
        second = claimed(database, clock)
        assert second.job.id == job_id and second.attempt == 2
        with pytest.raises(StaleLease), database.write() as session:
            job_ends.finish(session, first.lease_id, first.attempt, {}, clock())
        with pytest.raises(StaleLease), database.write() as session:
            claims.renew(session, first.lease_id, first.attempt, clock())
        with pytest.raises(StaleLease), database.write() as session:
            job_ends.fail(session, first.lease_id, first.attempt, INFRA, clock())
        assert job(database, job_id).status == JobStatus.LEASED
        with database.write() as session:
            job_ends.finish(session, second.lease_id, 2, {"by": 2}, clock())
        assert job(database, job_id).result == {"by": 2}

    def test_a_renewed_lease_does_not_expire(self, database: Database, clock: Clock) -> None:
        queue(database)
        taken = claimed(database, clock)
        for _ in range(5):
            clock.pass_seconds(50)
            with database.write() as session:
                claims.renew(session, taken.lease_id, 1, clock(), 60)
            assert sweep(database, clock) == 0

    def test_work_that_ends_late_is_kept_while_nobody_else_has_begun(self, database: Database, clock: Clock) -> None:
        job_id = queue(database)
        taken = claimed(database, clock)
        clock.pass_seconds(100)
        sweep(database, clock)
        with database.write() as session:
            job_ends.finish(session, taken.lease_id, 1, {"late": True}, clock())
        assert job(database, job_id).status == JobStatus.SUCCEEDED
        assert claim(database, clock) is None

    def test_a_job_that_kills_its_workers_is_quarantined(self, database: Database, clock: Clock) -> None:
        job_id = queue(database, max_attempts=3)
        for _ in range(3):
            claimed(database, clock)
            clock.pass_seconds(61)
            sweep(database, clock)
        dead = job(database, job_id)
        assert dead.status == JobStatus.FAILED and dead.attempts == 3
        assert dead.failure is not None and dead.failure["kind"] == "infra" and "quarantined" in dead.failure["detail"]
        assert claim(database, clock) is None

    @pytest.mark.parametrize(
        ("kind", "status"), [("user", JobStatus.FAILED), ("device", JobStatus.QUEUED), ("infra", JobStatus.QUEUED)]
    )
    def test_only_the_users_faults_are_final_at_once(
        self, database: Database, clock: Clock, kind: str, status: JobStatus
    ) -> None:
        job_id = queue(database)
        taken = claimed(database, clock)
        with database.write() as session:
            failure = Failure.model_validate({"kind": kind, "detail": "it does not work"})
            job_ends.fail(session, taken.lease_id, 1, failure, clock(), log="the log")
        assert job(database, job_id).status == status
        with database.read() as session:
            assert attempts(session, job_id)[0].log == "the log"

    def test_a_job_given_back_is_no_failure(self, database: Database, clock: Clock) -> None:
        job_id = queue(database, max_attempts=1)
        for attempt in (1, 2, 3):
            taken = claimed(database, clock)
            assert taken.attempt == attempt
            with database.write() as session:
                job_ends.release(session, taken.lease_id, attempt, clock())
        assert job(database, job_id).status == JobStatus.QUEUED

    @pytest.mark.medium
    def test_cancel_takes_the_children_along_and_is_final(self, database: Database, clock: Clock) -> None:
        parent = queue(database)
        taken = claimed(database, clock)
        with database.write() as session:
            child = jobs.enqueue(session, kind=JobKind.MEASURE, now=START, parent_id=parent, key="verify-0").id
        with database.write() as session:
            job_ends.cancel(session, parent, clock())
        assert job(database, parent).status == job(database, child).status == JobStatus.CANCELLED
        with pytest.raises(StaleLease), database.write() as session:
            job_ends.finish(session, taken.lease_id, 1, {}, clock())
        with pytest.raises(Finished), database.write() as session:
            job_ends.cancel(session, parent, clock())
        clock.pass_seconds(1000)
        assert sweep(database, clock) == 0
        assert job(database, parent).status == JobStatus.CANCELLED

    def test_a_child_is_queued_once(self, database: Database) -> None:
        parent = queue(database)
        with database.write() as session:
            first = jobs.enqueue(session, kind=JobKind.MEASURE, now=START, parent_id=parent, key="probe-3").id
            again = jobs.enqueue(session, kind=JobKind.MEASURE, now=START, parent_id=parent, key="probe-3").id
            other = jobs.enqueue(session, kind=JobKind.MEASURE, now=START, parent_id=parent, key="probe-4").id
            assert first == again != other
            child = jobs.find_child(session, parent, "probe-3")
            assert child is not None and child.id == first
            assert len(jobs.children(session, parent)) == 2

    def test_a_wrong_attempt_number_is_stale_and_an_unknown_lease_not_found(
        self, database: Database, clock: Clock
    ) -> None:
        queue(database)
        taken = claimed(database, clock)
        with pytest.raises(StaleLease), database.write() as session:
            job_ends.finish(session, taken.lease_id, 2, {}, clock())
        with pytest.raises(NotFound), database.write() as session:
            job_ends.finish(session, "lease-unknown", 1, {}, clock())

    def test_a_failed_transaction_changes_nothing(self, database: Database, clock: Clock) -> None:
        job_id = queue(database)
        with pytest.raises(ZeroDivisionError), database.write() as session:
            claims.claim_compute(session, "worker-1", KINDS, clock())
            raise ZeroDivisionError
        assert job(database, job_id).attempts == 0
        assert claimed(database, clock).attempt == 1

    @pytest.mark.parametrize("end", ["finish", "fail", "quarantine", "cancel"])
    def test_however_a_parent_finishes_its_open_children_are_cancelled(
        self, database: Database, clock: Clock, end: str
    ) -> None:
        parent = queue(database, max_attempts=1)
        taken = claimed(database, clock)
        children = {key: child_of(database, parent, key) for key in ("queued", "leased", "done")}
        grandchild = child_of(database, children["queued"], "deeper")
        leases = claim_children(database, clock, children["leased"], children["done"])
        with database.write() as session:
            job_ends.finish(session, leases[children["done"]].lease_id, 1, {"measured": True}, clock())
        if end == "quarantine":
            clock.pass_seconds(61)
            with database.write() as session:  # so that the parent's lease alone has expired
                claims.renew(session, leases[children["leased"]].lease_id, 1, clock())
            assert sweep(database, clock) == 1
        else:
            with database.write() as session:
                if end == "finish":
                    job_ends.finish(session, taken.lease_id, 1, {}, clock())
                elif end == "fail":
                    job_ends.fail(session, taken.lease_id, 1, Failure(kind="user", detail="no such supernet"), clock())
                else:
                    job_ends.cancel(session, parent, clock())
        for job_id in (children["queued"], children["leased"], grandchild):
            child = job(database, job_id)
            assert child.status == JobStatus.CANCELLED and child.finished_at == clock()
            error = jobs.error(child)
            assert error is not None and "its parent job" in error.detail
            if end == "fail":
                assert error.kind == "user" and "no such supernet" in error.detail
        assert parent in str(job(database, children["queued"]).failure)
        assert job(database, children["done"]).status == JobStatus.SUCCEEDED
        lease = leases[children["leased"]]
        with pytest.raises(StaleLease), database.write() as session:
            job_ends.finish(session, lease.lease_id, 1, {}, clock())
        with database.read() as session:
            (attempt,) = attempts(session, children["leased"])
        assert attempt.outcome == "cancelled" and attempt.ended_at == clock()

    def test_an_attempt_that_is_tried_again_keeps_its_children(self, database: Database, clock: Clock) -> None:
        parent = queue(database)
        for end in ("fail", "release", "expire"):
            clock.pass_seconds(1)
            taken = claimed(database, clock)
            child = child_of(database, parent, end)
            with database.write() as session:
                if end == "fail":
                    job_ends.fail(session, taken.lease_id, taken.attempt, INFRA, clock())
                elif end == "release":
                    job_ends.release(session, taken.lease_id, taken.attempt, clock())
                else:
                    lease_expiry.expire(session, KINDS, clock())
            assert job(database, parent).status == job(database, child).status == JobStatus.QUEUED

    def test_children_that_an_older_version_left_queued_are_swept(self, database: Database, clock: Clock) -> None:
        """Also those of parents that were cancelled or quarantined before; open families stay."""
        kept = child_of(database, queue(database), "of an open parent")
        orphans = {}
        for status in (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SUCCEEDED):
            parent = queue(database)
            orphans[parent] = child_of(database, parent, "left behind")
            with database.write() as session:
                row = jobs.get(session, parent)
                row.status, row.finished_at = status.value, START
                session.add(row)
        with database.write() as session:
            assert job_ends.sweep_orphans(session, clock()) == 3
        with database.write() as session:
            assert job_ends.sweep_orphans(session, clock()) == 0
        for parent, orphan in orphans.items():
            child = job(database, orphan)
            error = jobs.error(child)
            assert child.status == JobStatus.CANCELLED and error is not None and parent in error.detail
        assert job(database, kept).status == JobStatus.QUEUED

    def test_a_finished_parent_gets_no_more_children(self, database: Database, clock: Clock) -> None:
        parent = queue(database)
        first = child_of(database, parent, "first")
        with database.write() as session:
            job_ends.cancel(session, parent, clock())
        with pytest.raises(Finished):
            child_of(database, parent, "second")
        assert child_of(database, parent, "first") == first
        with pytest.raises(NotFound):
            child_of(database, "job-unknown", "first")

    def test_a_job_cancelled_by_a_user_has_no_error(self, database: Database, clock: Clock) -> None:
        job_id = queue(database)
        taken = claimed(database, clock)
        with database.write() as session:
            job_ends.fail(session, taken.lease_id, 1, INFRA, clock())
            job_ends.cancel(session, job_id, clock())
        assert jobs.error(job(database, job_id)) is None

    def test_a_log_may_hold_any_character(self, database: Database, clock: Clock) -> None:
        job_id = queue(database)
        taken = claimed(database, clock)
        failure = Failure(kind="infra", detail="a file named \udce9\0")
        with database.write() as session:
            job_ends.fail(session, taken.lease_id, 1, failure, clock(), log="\\u0000 \ud800 \0 é")
        with database.read() as session:
            (attempt,) = attempts(session, job_id)
        assert attempt.log == "\\u0000 \ufffd \ufffd é"
        assert attempt.failure == {"kind": "infra", "detail": "a file named \ufffd\ufffd"}

    def test_a_result_may_hold_any_character(self, database: Database, clock: Clock) -> None:
        job_id = queue(database)
        taken = claimed(database, clock)
        with database.write() as session:
            job_ends.finish(session, taken.lease_id, 1, {"\0": ["\ud800", "\\u0000", "\\ud800", 1.5, None]}, clock())
        assert job(database, job_id).result == {"\ufffd": ["\ufffd", "\\u0000", "\\ud800", 1.5, None]}

"""How jobs end: finished, failed, released or cancelled, and their relatives with them.

With a job end its open children and the jobs that are `same_as` it; its parent goes on if it waited for this job only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from server.errors import Finished
from server.services import absence, joining
from server.services.claims import change_held, get_attempt
from server.services.jobs import OPEN, TAKEN, changed, children, error, get, lock
from server.services.notices import job_changed
from server.services.resuming import resume_parent
from server.store.tables import Attempt, Job
from server.wire import MAX_DETAIL_CHARS, Failure, JobKind, JobStatus

MAX_DELAY_SECONDS = 300.0
DELAY_FACTOR = 5.0
# So that a job that takes its device down each time ends too.
UNCOUNTED_ATTEMPTS = 5
NOT_WAITING = {"waits_for": None, "wait_reason": None, "wait_until": None}


def finish(session: Session, lease_id: str, attempt: int, result: Mapping[str, Any], now: datetime) -> Job:
    """Store the result; the job has succeeded. Raises NotFound, StaleLease."""
    attempt_row = get_attempt(session, lease_id)
    lock(session, attempt_row.job_id)
    job = get(session, attempt_row.job_id)
    change = {"status": JobStatus.SUCCEEDED.value, "result": dict(result), "failure": None} | ended(now)
    change_held(session, job, lease_id, attempt, change, OPEN)
    close_attempt(attempt_row, "succeeded", now)
    after_end(session, job, now)
    return job


def fail(
    session: Session,
    lease_id: str,
    attempt: int,
    failure: Failure,
    now: datetime,
    log: str = "",
    final: bool = False,
) -> Job:
    """The attempt failed. The job is queued again, unless the user has to act, all attempts have failed, or the failure
    is `final`: known to repeat itself. The next attempt starts over, without a checkpoint.

    Raises NotFound, StaleLease.
    """
    attempt_row = get_attempt(session, lease_id)
    lock(session, attempt_row.job_id)
    job = get(session, attempt_row.job_id)
    counted = failure.kind != "device" or not is_absence(session, job, now)
    final = final or failure.kind == "user" or (counted and job.failures + 1 >= job.max_attempts)
    change = after_failure(job, failure, final, now, counted)
    if not final:
        change |= {"checkpoint": None, "not_before": now + _delay(job.failures)}
    change_held(session, job, lease_id, attempt, change, TAKEN)
    close_attempt(attempt_row, "failed", now, failure, log)
    if final:
        after_end(session, job, now)
    return job


def _delay(failures: int) -> timedelta:
    """Before the attempt after this many failures and one more: 1, 5, 25, … seconds."""
    return timedelta(seconds=min(MAX_DELAY_SECONDS, DELAY_FACTOR ** min(failures, 10)))


def is_absence(session: Session, job: Job, now: datetime) -> bool:
    """Whether a measuring job failed because its device is away, which is no fault of the job."""
    if job.kind != JobKind.MEASURE or job.attempts >= UNCOUNTED_ATTEMPTS * job.max_attempts:
        return False
    return absence.is_away(session, job.device, now)


def release(session: Session, lease_id: str, attempt: int, now: datetime) -> Job:
    """Put the job back into the queue, for instance at shutdown; counts no failure. Raises NotFound, StaleLease."""
    attempt_row = get_attempt(session, lease_id)
    job = get(session, attempt_row.job_id)
    change_held(session, job, lease_id, attempt, {"status": JobStatus.QUEUED.value, "lease_expires_at": None}, TAKEN)
    close_attempt(attempt_row, "released", now)
    return job


def cancel(session: Session, job_id: str, now: datetime) -> Job:
    """Cancel the job and its open children; their holders learn it when they next renew or report.

    Raises NotFound, Finished.
    """
    lock(session, job_id)
    job = get(session, job_id)
    if not _cancel(session, job, now):
        raise Finished(f"job '{job_id}' is {job.status} already and stays so")
    return job


def sweep_orphans(session: Session, now: datetime) -> int:
    """Cancel open jobs whose parent is finished: left by versions that did not; returns how many it cancelled."""
    parent = aliased(Job)
    statement = (
        select(Job, parent)
        .join(parent, col(parent.id) == col(Job.parent_id))
        .where(col(Job.status).in_(OPEN), col(parent.status).not_in(OPEN))
        .order_by(col(Job.id))
    )
    orphans = session.exec(statement).all()
    return sum(_cancel(session, child, now, _parent_finished(parent_job)) for child, parent_job in orphans)


def _cancel(session: Session, job: Job, now: datetime, reason: Failure | None = None) -> bool:
    """Cancel an open job and its open children; False where it is finished already."""
    failure = reason.model_dump() if reason else None
    change = {"status": JobStatus.CANCELLED.value, "failure": failure} | ended(now)
    is_cancelled = changed(session, update(Job).where(col(Job.id) == job.id, col(Job.status).in_(OPEN)).values(change))
    session.refresh(job)
    if not is_cancelled:
        return False
    job_changed(session, job)
    if job.lease_id is not None and (attempt := get_attempt(session, job.lease_id)).ended_at is None:
        close_attempt(attempt, "cancelled", now, reason)
    after_end(session, job, now)
    return True


def after_end(session: Session, job: Job, now: datetime) -> None:
    """What follows when a job has finished: for its children, the jobs that are the same, and a parent that waits."""
    for child in children(session, job.id):
        if not JobStatus(child.status).finished:
            _cancel(session, child, now, _parent_finished(job))
    joining.end_same(session, job, now)
    resume_parent(session, job)


def _parent_finished(parent: Job) -> Failure:
    """Why the children of a finished job are cancelled."""
    failure = error(parent)
    detail = f"its parent job '{parent.id}' {parent.status if parent.status != 'cancelled' else 'was cancelled'}"
    if failure is not None:
        detail += f": {failure.detail}"
    return Failure(kind=failure.kind if failure else "user", detail=detail[:MAX_DETAIL_CHARS])


def after_failure(job: Job, failure: Failure, final: bool, now: datetime, counted: bool = True) -> dict[str, Any]:
    """The columns of a job whose attempt failed: queued again, or failed if that is `final`."""
    change = ended(now) if final else {"lease_expires_at": None, "progress": None}
    return change | {
        "status": (JobStatus.FAILED if final else JobStatus.QUEUED).value,
        "failures": job.failures + counted,
        "failure": failure.model_dump(),
    }


def ended(now: datetime) -> dict[str, Any]:
    """The columns of a job that has finished, but for its status."""
    return {"finished_at": now, "lease_expires_at": None, "not_before": None, "checkpoint": None} | NOT_WAITING


def close_attempt(attempt: Attempt, outcome: str, now: datetime, failure: Failure | None = None, log: str = "") -> None:
    """Store how an attempt ended; a failure and a log that are not given stay as they are."""
    attempt.ended_at = now
    attempt.outcome = outcome
    attempt.failure = failure.model_dump() if failure else attempt.failure
    attempt.log = log or attempt.log

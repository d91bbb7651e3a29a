"""How jobs end: finished, failed, released or cancelled, and their open children with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from server.errors import Finished
from server.services.claims import change_held, get_attempt
from server.services.jobs import OPEN, TAKEN, changed, children, error, get
from server.services.notices import job_changed
from server.store.tables import Attempt, Job
from server.wire import MAX_DETAIL_CHARS, Failure, JobStatus


def finish(session: Session, lease_id: str, attempt: int, result: Mapping[str, Any], now: datetime) -> Job:
    """Store the result; the job has succeeded. Raises NotFound, StaleLease."""
    attempt_row = get_attempt(session, lease_id)
    job = get(session, attempt_row.job_id)
    change = {"status": JobStatus.SUCCEEDED.value, "result": dict(result), "failure": None} | _ended(now)
    change_held(session, job, lease_id, attempt, change, OPEN)
    close_attempt(attempt_row, "succeeded", now)
    cancel_children(session, job, now)
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
    is `final`: known to repeat itself.

    Raises NotFound, StaleLease.
    """
    attempt_row = get_attempt(session, lease_id)
    job = get(session, attempt_row.job_id)
    final = final or failure.kind == "user" or job.failures + 1 >= job.max_attempts
    change_held(session, job, lease_id, attempt, after_failure(job, failure, final, now), TAKEN)
    close_attempt(attempt_row, "failed", now, failure, log)
    if final:
        cancel_children(session, job, now)
    return job


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
    change = {"status": JobStatus.CANCELLED.value, "failure": failure} | _ended(now)
    is_cancelled = changed(session, update(Job).where(col(Job.id) == job.id, col(Job.status).in_(OPEN)).values(change))
    session.refresh(job)
    if not is_cancelled:
        return False
    job_changed(session, job)
    if job.lease_id is not None and (attempt := get_attempt(session, job.lease_id)).ended_at is None:
        close_attempt(attempt, "cancelled", now, reason)
    cancel_children(session, job, now)
    return True


def cancel_children(session: Session, parent: Job, now: datetime) -> None:
    """Cancel the open children of a job that has just finished."""
    for child in children(session, parent.id):
        if not JobStatus(child.status).finished:
            _cancel(session, child, now, _parent_finished(parent))


def _parent_finished(parent: Job) -> Failure:
    """Why the children of a finished job are cancelled."""
    failure = error(parent)
    detail = f"its parent job '{parent.id}' {parent.status if parent.status != 'cancelled' else 'was cancelled'}"
    if failure is not None:
        detail += f": {failure.detail}"
    return Failure(kind=failure.kind if failure else "user", detail=detail[:MAX_DETAIL_CHARS])


def after_failure(job: Job, failure: Failure, final: bool, now: datetime) -> dict[str, Any]:
    """The columns of a job whose attempt failed: queued again, or failed if that is `final`."""
    change = _ended(now) if final else {"lease_expires_at": None, "progress": None}
    return change | {
        "status": (JobStatus.FAILED if final else JobStatus.QUEUED).value,
        "failures": job.failures + 1,
        "failure": failure.model_dump(),
    }


def _ended(now: datetime) -> dict[str, Any]:
    return {"finished_at": now, "lease_expires_at": None}


def close_attempt(attempt: Attempt, outcome: str, now: datetime, failure: Failure | None = None, log: str = "") -> None:
    """Store how an attempt ended; a failure and a log that are not given stay as they are."""
    attempt.ended_at = now
    attempt.outcome = outcome
    attempt.failure = failure.model_dump() if failure else attempt.failure
    attempt.log = log or attempt.log

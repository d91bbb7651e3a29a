"""Leases that nobody renews: their jobs return to the queue, or to quarantine after too many failed attempts."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import update
from sqlmodel import Session, col, select

from server.services.claims import get_attempt
from server.services.job_ends import after_end, after_failure, close_attempt, is_absence
from server.services.jobs import TAKEN, changed, lock
from server.services.notices import job_changed
from server.store.tables import Attempt, Job
from server.wire import Failure, JobKind


def sweep(session: Session, now: datetime) -> int:
    """Put jobs whose lease has expired back into the queue, or into quarantine; returns how many there were."""
    # Parents are older than their children: every transaction locks them first, so that none waits for another's.
    expired = select(Job).where(col(Job.status).in_(TAKEN), col(Job.lease_expires_at) <= now).order_by(col(Job.id))
    jobs = session.exec(expired).all()
    for job in jobs:
        _expire(session, job, now)
    return len(jobs)


def expire(session: Session, kinds: Collection[JobKind], now: datetime) -> int:
    """Expire every lease on jobs of these kinds now: for when their holders are known to be dead."""
    taken = (col(Job.kind).in_([kind.value for kind in kinds]), col(Job.status).in_(TAKEN))
    # A parked job has no lease.
    session.execute(update(Job).where(*taken, col(Job.lease_expires_at).is_not(None)).values(lease_expires_at=now))
    return sweep(session, now)


def expire_of(session: Session, owner: str, now: datetime, kept: Collection[str] = ()) -> int:
    """Expire every lease of an agent or worker now, but those `kept`: for when it is known to have lost its work."""
    mine = select(Attempt.id).where(Attempt.owner == owner, col(Attempt.ended_at).is_(None))
    mine = mine.where(col(Attempt.id).not_in(kept))
    taken = (col(Job.lease_id).in_(mine), col(Job.status).in_(TAKEN))
    session.execute(update(Job).where(*taken).values(lease_expires_at=now))
    return sweep(session, now)


def _expire(session: Session, job: Job, now: datetime) -> None:
    assert job.lease_id is not None
    attempt_row = get_attempt(session, job.lease_id)
    lock(session, job.id)
    counted = not is_absence(session, job, now)
    final = counted and job.failures + 1 >= job.max_attempts
    detail = f"'{attempt_row.owner}' stopped renewing its lease in attempt {job.attempts}"
    if not counted:
        detail += f"; device '{job.device}' is away, which is not counted as a failure"
    if final:
        detail += f"; quarantined after {job.failures + 1} failed attempts: read their logs, then queue the work again"
    failure = Failure(kind="infra", detail=detail)
    same = (col(Job.id) == job.id, col(Job.lease_id) == job.lease_id, col(Job.lease_expires_at) <= now)
    change = after_failure(job, failure, final, now, counted)
    if changed(session, update(Job).where(*same, col(Job.status).in_(TAKEN)).values(change)):
        close_attempt(attempt_row, "expired", now, failure)
        session.refresh(job)
        job_changed(session, job)
        if final:
            after_end(session, job, now)

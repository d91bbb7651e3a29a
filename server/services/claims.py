"""Claims of jobs: the lease, its renewal, and the fencing that lets only its holder change the job.

Every claim is an attempt, whose number is the fencing token.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlmodel import Session, col, select

from server.errors import NotFound, StaleLease
from server.services.host_exclusion import undisturbed
from server.services.jobs import TAKEN, changed, get
from server.services.notices import job_changed
from server.store.tables import Attempt, Job, new_id
from server.wire import JobKind, JobStatus, Progress

DEFAULT_LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Claimed:
    """The right to do `job` until `expires_at`; renewals and the report name `attempt`."""

    job: Job
    lease_id: str
    attempt: int
    expires_at: datetime


def waiting(session: Session, kinds: Collection[JobKind], devices: Collection[str] | None = None) -> bool:
    """Whether a claim could succeed: a cheap read, so that idle polling writes nothing."""
    return session.exec(select(Job.id).where(*_claimable(kinds, devices)).limit(1)).first() is not None


def claim_compute(
    session: Session,
    worker_id: str,
    kinds: Collection[JobKind],
    now: datetime,
    lease_seconds: float = DEFAULT_LEASE_SECONDS,
) -> Claimed | None:
    """Take the next compute job, None when no job is queued."""
    return _claim(session, worker_id, _claimable(kinds, None), now, lease_seconds)


def claim_device(
    session: Session, agent_id: str, devices: Collection[str], now: datetime, lease_seconds: float
) -> Claimed | None:
    """Take the next measuring job for one of an agent's devices, None when no job is queued."""
    return _claim(session, agent_id, _claimable((JobKind.MEASURE,), devices), now, lease_seconds)


def renew(
    session: Session,
    lease_id: str,
    attempt: int,
    now: datetime,
    lease_seconds: float = DEFAULT_LEASE_SECONDS,
    progress: Progress | None = None,
) -> datetime:
    """Extend the lease and store the progress; returns when the lease expires. Raises NotFound, StaleLease."""
    expires_at = now + timedelta(seconds=lease_seconds)
    job = get(session, get_attempt(session, lease_id).job_id)
    change: dict[str, Any] = {"status": JobStatus.RUNNING.value, "lease_expires_at": expires_at}
    if progress is not None:
        change["progress"] = progress.model_dump()
    change_held(session, job, lease_id, attempt, change, TAKEN)
    return expires_at


def get_attempt(session: Session, lease_id: str) -> Attempt:
    """Raises NotFound."""
    attempt = session.get(Attempt, lease_id)
    if attempt is None:
        raise NotFound(f"there is no lease '{lease_id}'")
    return attempt


def change_held(
    session: Session, job: Job, lease_id: str, attempt: int, change: dict[str, Any], states: tuple[JobStatus, ...]
) -> None:
    """Change the job if this lease and attempt still hold it. Raises StaleLease."""
    held = (col(Job.id) == job.id, col(Job.lease_id) == lease_id, col(Job.attempts) == attempt)
    if not changed(session, update(Job).where(*held, col(Job.status).in_(states)).values(change)):
        session.refresh(job)
        raise StaleLease(
            f"lease '{lease_id}', attempt {attempt}, no longer holds job '{job.id}' "
            f"({job.status}, attempt {job.attempts}): drop this work"
        )
    session.refresh(job)
    job_changed(session, job)


def _claimable(kinds: Collection[JobKind], devices: Collection[str] | None) -> list[ColumnElement[bool]]:
    where = [col(Job.status) == JobStatus.QUEUED.value, col(Job.kind).in_([kind.value for kind in kinds])]
    if devices is not None:
        where += [col(Job.device).in_(list(devices)), undisturbed()]
    return where


def _claim(
    session: Session, owner: str, where: list[ColumnElement[bool]], now: datetime, lease_seconds: float
) -> Claimed | None:
    lease_id = new_id("lease", now)
    expires_at = now + timedelta(seconds=lease_seconds)
    # skip_locked lets PostgreSQL's claimers pass each other; SQLite has one writer at a time and ignores it.
    chosen = select(Job.id).where(*where).order_by(col(Job.priority).desc(), col(Job.id)).limit(1)
    take = (
        update(Job)
        .where(
            col(Job.id) == chosen.with_for_update(skip_locked=True).scalar_subquery(),
            col(Job.status) == JobStatus.QUEUED.value,
        )
        .values(
            status=JobStatus.LEASED.value,
            attempts=Job.attempts + 1,
            lease_id=lease_id,
            lease_expires_at=expires_at,
            progress=None,
        )
        .returning(col(Job.id))
    )
    job_id = session.execute(take).scalar_one_or_none()
    if job_id is None:
        return None
    job = session.get_one(Job, job_id, populate_existing=True)
    job.started_at = job.started_at or now
    session.add(Attempt(id=lease_id, job_id=job.id, number=job.attempts, owner=owner, leased_at=now))
    session.flush()
    job_changed(session, job)
    return Claimed(job=job, lease_id=lease_id, attempt=job.attempts, expires_at=expires_at)

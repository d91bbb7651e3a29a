"""Claims of jobs: the lease, its renewal, and the fencing that lets only its holder change the job.

Every claim is an attempt, whose number is the fencing token. Of several claimable jobs the one of the highest priority
is taken. Among equal ones owners share: first comes the owner who holds the fewest leases, then the one whose work was
begun longest ago, then the oldest job. The service's own work counts as one owner.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, ScalarSelect, Select, bindparam, or_, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import Session, col, func, select

from server.errors import NotFound, StaleLease
from server.ids import new_id
from server.services.host_exclusion import undisturbed
from server.services.jobs import TAKEN, changed, get
from server.services.notices import job_changed
from server.store.tables import Attempt, Job
from server.wire import JobKind, JobStatus, Progress

DEFAULT_LEASE_SECONDS = 60.0
# A renewal is written only when this much of the lease is used up, so that agents may ask often at little cost.
USED_BEFORE_WRITE = 1 / 3
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Claimed:
    """The right to do `job` until `expires_at`; renewals and the report name `attempt`."""

    job: Job
    lease_id: str
    attempt: int
    expires_at: datetime


def waiting(
    session: Session, kinds: Collection[JobKind], devices: Collection[str] | None = None, *, now: datetime
) -> bool:
    """Whether a claim could succeed: a cheap read, so that idle polling writes nothing."""
    asked = _asked(kinds, devices)
    return session.execute(_any_claimable(asked.of_devices), asked.values(now)).first() is not None


def claim_compute(
    session: Session,
    worker_id: str,
    kinds: Collection[JobKind],
    now: datetime,
    lease_seconds: float = DEFAULT_LEASE_SECONDS,
) -> Claimed | None:
    """Take the next compute job, None when no job is queued."""
    return _claim(session, worker_id, _asked(kinds), now, lease_seconds)


def claim_device(
    session: Session, agent_id: str, devices: Collection[str], now: datetime, lease_seconds: float
) -> Claimed | None:
    """Take the next measuring job for one of an agent's devices, None when no job is queued."""
    return _claim(session, agent_id, _asked((JobKind.MEASURE,), devices), now, lease_seconds)


def held_until(
    session: Session, lease_id: str, attempt: int, now: datetime, lease_seconds: float, progress: Progress | None
) -> datetime | None:
    """When the lease expires, if it is held and a renewal need not be written yet; otherwise None. A cheap read."""
    job = get(session, get_attempt(session, lease_id).job_id)
    expires_at = job.lease_expires_at
    if (job.lease_id, job.attempts, job.status) != (lease_id, attempt, JobStatus.RUNNING) or expires_at is None:
        return None
    is_stored = progress is None or job.progress == progress.model_dump()
    is_fresh = expires_at - now >= timedelta(seconds=lease_seconds * (1 - USED_BEFORE_WRITE))
    return expires_at if is_stored and is_fresh else None


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


@dataclass(frozen=True)
class _Asked:
    """Which jobs a claim is for; `devices` is None for work of the compute workers."""

    kinds: tuple[str, ...]
    devices: tuple[str, ...] | None

    @property
    def of_devices(self) -> bool:
        return self.devices is not None

    def values(self, now: datetime, **more: object) -> dict[str, Any]:
        """What the parameters of the statements stand for."""
        return {"kinds": self.kinds, "now": now, **({"devices": self.devices} if self.of_devices else {}), **more}


def _asked(kinds: Collection[JobKind], devices: Collection[str] | None = None) -> _Asked:
    return _Asked(tuple(kind.value for kind in kinds), None if devices is None else tuple(devices))


# The statements are built once each: for one of these that takes ten times as long as the database does.
def _claimable(of_devices: bool) -> list[ColumnElement[bool]]:
    where = [
        col(Job.status) == JobStatus.QUEUED.value,
        col(Job.kind).in_(bindparam("kinds", expanding=True)),
        col(Job.same_as).is_(None),
        or_(col(Job.not_before).is_(None), col(Job.not_before) <= bindparam("now")),
    ]
    if of_devices:
        where += [col(Job.device).in_(bindparam("devices", expanding=True)), undisturbed()]
    return where


@cache
def _any_claimable(of_devices: bool) -> Select[Any]:
    return sqlalchemy.select(col(Job.id)).where(*_claimable(of_devices)).limit(1)


@cache
def _taking(of_devices: bool, has_owner: bool) -> ReturningUpdate[Any]:
    """Changes the oldest such job; none that another transaction has locked."""
    mine = col(Job.owner) == bindparam("of_owner") if has_owner else col(Job.owner).is_(None)
    where = [*_claimable(of_devices), col(Job.priority) == bindparam("of_priority"), mine]
    # skip_locked lets PostgreSQL's claimers pass each other; SQLite has one writer at a time and ignores it.
    oldest = select(Job.id).where(*where).order_by(col(Job.id)).limit(1).with_for_update(skip_locked=True)
    take = update(Job).where(col(Job.id) == oldest.scalar_subquery(), col(Job.status) == JobStatus.QUEUED.value)
    taken = take.values(
        status=JobStatus.LEASED.value,
        attempts=Job.attempts + 1,
        lease_id=bindparam("lease"),
        lease_expires_at=bindparam("expires_at"),
        progress=None,
        not_before=None,
    )
    return taken.returning(col(Job.id))


def _claim(session: Session, holder: str, asked: _Asked, now: datetime, lease_seconds: float) -> Claimed | None:
    lease_id = new_id("lease", now)
    expires_at = now + timedelta(seconds=lease_seconds)
    for turn in _turns(session, asked, now):
        values = asked.values(now, lease=lease_id, expires_at=expires_at, of_priority=turn.priority)
        if turn.owner is not None:
            values["of_owner"] = turn.owner
        taking = _taking(asked.of_devices, turn.owner is not None)
        job_id: str | None = session.execute(taking, values).scalar_one_or_none()
        if job_id is not None:
            break
    else:
        return None
    job = session.get_one(Job, job_id, populate_existing=True)
    job.started_at = job.started_at or now
    session.add(Attempt(id=lease_id, job_id=job.id, number=job.attempts, owner=holder, leased_at=now))
    session.flush()
    job_changed(session, job)
    return Claimed(job=job, lease_id=lease_id, attempt=job.attempts, expires_at=expires_at)


@dataclass(frozen=True)
class _Turn:
    """The claimable jobs of one priority and owner: the id of the oldest, and what the owner was given so far."""

    priority: int
    owner: str | None
    oldest: str
    leases: int
    last: datetime | None

    @property
    def rank(self) -> tuple[int, int, datetime, str]:
        return -self.priority, self.leases, self.last or NEVER, self.oldest


@cache
def _waiting_by_owner(of_devices: bool) -> Select[Any]:
    oldest = func.min(Job.id).label("oldest")
    grouped = select(Job.priority, Job.owner, oldest).where(*_claimable(of_devices))
    waiting = grouped.group_by(col(Job.priority), col(Job.owner)).subquery()
    columns = (waiting.c.priority, waiting.c.owner, waiting.c.oldest, *_leases_and_last(waiting.c.owner))
    return sqlalchemy.select(*columns)


@cache
def _of_the_service() -> Select[int, datetime | None]:
    """In SQL nobody equals nobody: the service's own work is looked up by itself."""
    return sqlalchemy.select(*_leases_and_last(None))


def _turns(session: Session, asked: _Asked, now: datetime) -> list[_Turn]:
    """The claimable jobs by priority and owner, in the order in which they are served."""
    turns = [_Turn(*row) for row in session.execute(_waiting_by_owner(asked.of_devices), asked.values(now))]
    if len(turns) > 1 and any(turn.owner is None for turn in turns):
        leases, last = session.execute(_of_the_service()).one()
        turns = [replace(turn, leases=leases, last=last) if turn.owner is None else turn for turn in turns]
    return sorted(turns, key=lambda turn: turn.rank)


def _leases_and_last(
    owner: ColumnElement[str | None] | None,
) -> tuple[ScalarSelect[int], ScalarSelect[datetime | None]]:
    """How many leases an owner's jobs hold, and when work on one was last begun; each an index lookup."""
    job = aliased(Job)
    owned = col(job.owner).is_(None) if owner is None else col(job.owner) == owner
    is_leased = (col(job.status).in_(TAKEN), col(job.lease_expires_at).is_not(None))
    leases = sqlalchemy.select(func.count()).select_from(job).where(owned, *is_leased)
    last = sqlalchemy.select(func.max(job.started_at)).where(owned)
    return leases.scalar_subquery(), last.scalar_subquery()

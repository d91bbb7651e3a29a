"""The job queue: one table, claimed by leases, for work on devices and for compute.

    state      event                          next
    ---------  -----------------------------  -----------------------------------------------
    queued     claim                          leased     a new attempt; its number is the fencing token
    leased     renew                          running
    leased or  finish                         succeeded
    running    fail, kind user, or final      failed
               fail, kind device or infra     queued, or failed after `max_attempts` failures
               lease expired                  queued, or failed after `max_attempts` failures (quarantined)
               release                        queued     not counted as a failure
    any open   cancel                         cancelled
               its parent finishes            cancelled  with the reason as its failure
    queued     finish by the last attempt     succeeded  late, but no other attempt has begun: the work is not lost

Finished (succeeded, failed, cancelled) is final. However a job finishes, its open children are cancelled in the same
transaction. Every change is one conditional UPDATE: of two that try, one succeeds.
All functions take a session inside a transaction that the caller commits, and the present time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Update, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from server.errors import Finished, NotFound, StaleLease
from server.services.host_exclusion import undisturbed
from server.services.pages import page
from server.store.tables import Attempt, Job, new_id
from server.wire import Failure, JobKind, JobStatus, JobView, Page, Progress

OPEN = (JobStatus.QUEUED, JobStatus.LEASED, JobStatus.RUNNING)
TAKEN = (JobStatus.LEASED, JobStatus.RUNNING)
COMPUTE_KINDS = (JobKind.SEARCH, JobKind.SUBNET, JobKind.CALIBRATE, JobKind.CONVERT)
DEFAULT_LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Claimed:
    """The right to do `job` until `expires_at`; renewals and the report name `attempt`."""

    job: Job
    lease_id: str
    attempt: int
    expires_at: datetime


def enqueue(
    session: Session,
    *,
    kind: JobKind,
    now: datetime,
    payload: Mapping[str, Any] | None = None,
    device: str | None = None,
    model_id: str | None = None,
    parent_id: str | None = None,
    key: str | None = None,
    priority: int = 0,
    max_attempts: int = 3,
) -> Job:
    """Queue a job. With `parent_id` and `key` it is made once: an existing child is returned.

    Raises NotFound for an unknown parent, Finished for one that is finished: nobody would wait for the child.
    """
    if parent_id is not None and key is not None and (child := find_child(session, parent_id, key)) is not None:
        return child
    if parent_id is not None:
        lock(session, parent_id)
        parent = get(session, parent_id)
        if JobStatus(parent.status).finished:
            raise Finished(f"job '{parent_id}' is {parent.status}: it gets no more children")
    job = Job(
        id=new_id("job", now),
        kind=kind.value,
        status=JobStatus.QUEUED.value,
        priority=priority,
        device=device,
        model_id=model_id,
        parent_id=parent_id,
        key=key,
        payload=dict(payload or {}),
        max_attempts=max_attempts,
        created_at=now,
    )
    session.add(job)
    session.flush()
    return job


def add_done(
    session: Session, *, kind: JobKind, now: datetime, payload: Mapping[str, Any], result: Mapping[str, Any]
) -> Job:
    """Store a job whose result is known already: it has succeeded without an attempt."""
    job = Job(
        id=new_id("job", now),
        kind=kind.value,
        status=JobStatus.SUCCEEDED.value,
        payload=dict(payload),
        result=dict(result),
        created_at=now,
        started_at=now,
        finished_at=now,
    )
    session.add(job)
    session.flush()
    return job


def find_open(session: Session, kind: JobKind, model_id: str, key: str) -> Job | None:
    """The unfinished job of this kind and key on a model."""
    same = (Job.kind == kind.value, Job.model_id == model_id, Job.key == key)
    return session.exec(select(Job).where(*same, col(Job.status).in_(OPEN)).limit(1)).first()


def get(session: Session, job_id: str) -> Job:
    """Raises NotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"there is no job '{job_id}': GET /jobs lists them")
    return job


def lock(session: Session, job_id: str) -> None:
    """Let no other transaction change the job before this one ends; SQLite has one writer at a time anyway."""
    session.get(Job, job_id, with_for_update=True, populate_existing=True)


def find_child(session: Session, parent_id: str, key: str) -> Job | None:
    return session.exec(select(Job).where(Job.parent_id == parent_id, Job.key == key)).first()


def children(session: Session, parent_id: str) -> Sequence[Job]:
    return session.exec(select(Job).where(Job.parent_id == parent_id).order_by(col(Job.id))).all()


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
    _held(session, job, lease_id, attempt, change, TAKEN)
    return expires_at


def finish(session: Session, lease_id: str, attempt: int, result: Mapping[str, Any], now: datetime) -> Job:
    """Store the result; the job has succeeded. Raises NotFound, StaleLease."""
    attempt_row = get_attempt(session, lease_id)
    job = get(session, attempt_row.job_id)
    change = {"status": JobStatus.SUCCEEDED.value, "result": dict(result), "failure": None} | _ended(now)
    _held(session, job, lease_id, attempt, change, OPEN)
    _close(attempt_row, "succeeded", now)
    _cancel_children(session, job, now)
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
    change = _ended(now) if final else {"lease_expires_at": None, "progress": None}
    change |= {
        "status": (JobStatus.FAILED if final else JobStatus.QUEUED).value,
        "failures": job.failures + 1,
        "failure": failure.model_dump(),
    }
    _held(session, job, lease_id, attempt, change, TAKEN)
    _close(attempt_row, "failed", now, failure, log)
    if final:
        _cancel_children(session, job, now)
    return job


def release(session: Session, lease_id: str, attempt: int, now: datetime) -> Job:
    """Put the job back into the queue, for instance at shutdown; counts no failure. Raises NotFound, StaleLease."""
    attempt_row = get_attempt(session, lease_id)
    job = get(session, attempt_row.job_id)
    _held(session, job, lease_id, attempt, {"status": JobStatus.QUEUED.value, "lease_expires_at": None}, TAKEN)
    _close(attempt_row, "released", now)
    return job


def cancel(session: Session, job_id: str, now: datetime) -> Job:
    """Cancel the job and its open children; their holders learn it when they next renew or report.

    Raises NotFound, Finished.
    """
    job = get(session, job_id)
    if not _cancel(session, job, now):
        raise Finished(f"job '{job_id}' is {job.status} already and stays so")
    return job


def sweep(session: Session, now: datetime) -> int:
    """Put jobs whose lease has expired back into the queue, or into quarantine; returns how many there were."""
    # Parents are older than their children: every transaction locks them first, so that none waits for another's.
    expired = select(Job).where(col(Job.status).in_(TAKEN), col(Job.lease_expires_at) <= now).order_by(col(Job.id))
    jobs = session.exec(expired).all()
    for job in jobs:
        _expire(session, job, now)
    return len(jobs)


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


def expire(session: Session, kinds: Collection[JobKind], now: datetime) -> int:
    """Expire every lease on jobs of these kinds now: for when their holders are known to be dead."""
    taken = (col(Job.kind).in_([kind.value for kind in kinds]), col(Job.status).in_(TAKEN))
    session.execute(update(Job).where(*taken).values(lease_expires_at=now))
    return sweep(session, now)


def expire_of(session: Session, owner: str, now: datetime, kept: Collection[str] = ()) -> int:
    """Expire every lease of an agent or worker now, but those `kept`: for when it is known to have lost its work."""
    mine = select(Attempt.id).where(Attempt.owner == owner, col(Attempt.ended_at).is_(None))
    mine = mine.where(col(Attempt.id).not_in(kept))
    taken = (col(Job.lease_id).in_(mine), col(Job.status).in_(TAKEN))
    session.execute(update(Job).where(*taken).values(lease_expires_at=now))
    return sweep(session, now)


def get_attempt(session: Session, lease_id: str) -> Attempt:
    """Raises NotFound."""
    attempt = session.get(Attempt, lease_id)
    if attempt is None:
        raise NotFound(f"there is no lease '{lease_id}'")
    return attempt


def attempts(session: Session, job_id: str) -> Sequence[Attempt]:
    return session.exec(select(Attempt).where(Attempt.job_id == job_id).order_by(col(Attempt.number))).all()


def listing(
    session: Session,
    page_token: str | None,
    max_results: int,
    *,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    device: str | None = None,
    parent_id: str | None = None,
) -> Page[JobView]:
    """Newest first."""
    conditions: list[ColumnElement[bool]] = []
    for column, value in ((Job.kind, kind), (Job.status, status), (Job.device, device), (Job.parent_id, parent_id)):
        if value is not None:
            conditions.append(col(column) == value)
    return page(session, select(Job).where(*conditions), col(Job.id), page_token, max_results, view)


def view(job: Job) -> JobView:
    return JobView(
        id=job.id,
        kind=JobKind(job.kind),
        status=JobStatus(job.status),
        progress=Progress.model_validate(job.progress) if job.progress else None,
        error=error(job),
        result=job.result,
        device=job.device,
        model_id=job.model_id,
        parent_id=job.parent_id,
        attempts=job.attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        url=f"/jobs/{job.id}",
    )


def error(job: Job) -> Failure | None:
    """Why the job failed or was cancelled with its parent; None while it may be tried again."""
    final = job.status in (JobStatus.FAILED, JobStatus.CANCELLED)
    return Failure.model_validate(job.failure) if final and job.failure else None


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
    return Claimed(job=job, lease_id=lease_id, attempt=job.attempts, expires_at=expires_at)


def _held(
    session: Session, job: Job, lease_id: str, attempt: int, change: dict[str, Any], states: tuple[JobStatus, ...]
) -> None:
    """Change the job if this lease and attempt still hold it. Raises StaleLease."""
    held = (col(Job.id) == job.id, col(Job.lease_id) == lease_id, col(Job.attempts) == attempt)
    if not _changed(session, update(Job).where(*held, col(Job.status).in_(states)).values(change)):
        session.refresh(job)
        raise StaleLease(
            f"lease '{lease_id}', attempt {attempt}, no longer holds job '{job.id}' "
            f"({job.status}, attempt {job.attempts}): drop this work"
        )
    session.refresh(job)


def _expire(session: Session, job: Job, now: datetime) -> None:
    assert job.lease_id is not None
    attempt_row = get_attempt(session, job.lease_id)
    final = job.failures + 1 >= job.max_attempts
    detail = f"'{attempt_row.owner}' stopped renewing its lease in attempt {job.attempts}"
    if final:
        detail += f"; quarantined after {job.failures + 1} failed attempts: read their logs, then queue the work again"
    failure = Failure(kind="infra", detail=detail)
    change = _ended(now) if final else {"lease_expires_at": None, "progress": None}
    change |= {
        "status": (JobStatus.FAILED if final else JobStatus.QUEUED).value,
        "failures": job.failures + 1,
        "failure": failure.model_dump(),
    }
    same = (col(Job.id) == job.id, col(Job.lease_id) == job.lease_id, col(Job.lease_expires_at) <= now)
    if _changed(session, update(Job).where(*same, col(Job.status).in_(TAKEN)).values(change)):
        _close(attempt_row, "expired", now, failure)
        session.refresh(job)
        if final:
            _cancel_children(session, job, now)


def _cancel(session: Session, job: Job, now: datetime, reason: Failure | None = None) -> bool:
    """Cancel an open job and its open children; False where it is finished already."""
    failure = reason.model_dump() if reason else None
    change = {"status": JobStatus.CANCELLED.value, "failure": failure} | _ended(now)
    changed = _changed(session, update(Job).where(col(Job.id) == job.id, col(Job.status).in_(OPEN)).values(change))
    session.refresh(job)
    if not changed:
        return False
    if job.lease_id is not None and (attempt := get_attempt(session, job.lease_id)).ended_at is None:
        _close(attempt, "cancelled", now, reason)
    _cancel_children(session, job, now)
    return True


def _cancel_children(session: Session, parent: Job, now: datetime) -> None:
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
    return Failure(kind=failure.kind if failure else "user", detail=detail[:4000])


def _changed(session: Session, statement: Update) -> bool:
    session.flush()
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount > 0


def _ended(now: datetime) -> dict[str, Any]:
    return {"finished_at": now, "lease_expires_at": None}


def _close(attempt: Attempt, outcome: str, now: datetime, failure: Failure | None = None, log: str = "") -> None:
    attempt.ended_at = now
    attempt.outcome = outcome
    attempt.failure = failure.model_dump() if failure else attempt.failure
    attempt.log = log or attempt.log

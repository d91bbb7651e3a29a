"""The job queue: one database table, claimed by leases, for work on devices and for compute.

    state      event                          next
    ---------  -----------------------------  -----------------------------------------------
    queued     claim                          leased     a new attempt; its number is the fencing token
    leased     renew                          running
    leased or  finish                         succeeded
    running    fail, kind user, or final      failed
               fail, kind device or infra     queued, not before a growing delay; failed after `max_attempts` failures
               lease expired                  queued, or failed after `max_attempts` failures (quarantined); the absence
                                              of its device is not counted
               release                        queued     not counted as a failure
               park                           parked     not counted; queued at once where nothing is left to wait for
    parked     its last awaited job ends      queued     with its checkpoint: the next attempt goes on from there
               deadline passed                failed     kind device
    any open   cancel                         cancelled
               its parent finishes            cancelled  with the reason as its failure
               the job that it is `same_as`   as that one; if that one is cancelled, the oldest such job is done itself
               finishes
    queued     finish by the last attempt     succeeded  late, but no other attempt has begun: the work is not lost

A parked job waits for other jobs. Its status is `running`, but it has no lease and holds no thread; `wait_until` is its
deadline and marks it. A job that is `same_as` another is never claimed.

Claims, renewals, fair share and fencing are in `claims`; how a job ends, and its relatives with it, in `job_ends`; jobs
that wait in `parked`; what happens to leases that nobody renews in `lease_expiry`; equal jobs in `joining`. Here: what
is queued, and how it is shown.

Finished (succeeded, failed, cancelled) is final; the same work is done again by a new job (`retries`). However a job
finishes, its open children are cancelled in the same transaction. Every change is one conditional UPDATE: of two that
try, one succeeds. Transactions lock a parent before its children, so that none waits for another's.
All functions take a session inside a transaction that the caller commits, and the present time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Update
from sqlalchemy.orm import defer
from sqlalchemy.orm.util import identity_key
from sqlmodel import Session, col, func, select

from server.errors import Finished, NotFound
from server.ids import new_id
from server.services.notices import job_changed
from server.store.tables import Job, Token
from server.wire import Failure, JobKind, JobStatus, JobView, Progress

OPEN = (JobStatus.QUEUED, JobStatus.LEASED, JobStatus.RUNNING)
TAKEN = (JobStatus.LEASED, JobStatus.RUNNING)
# What lists do not show is not read.
SUMMARY = tuple(defer(column, raiseload=True) for column in (Job.result, Job.payload, Job.checkpoint))  # type: ignore[arg-type]
COMPUTE_KINDS = (JobKind.SEARCH, JobKind.SUBNET, JobKind.CALIBRATE, JobKind.CONVERT)


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
    owner: str | None = None,
    same_as: str | None = None,
    retry_of: str | None = None,
) -> Job:
    """Queue a job. With `parent_id` and `key` it is made once: an existing child is returned. A child has the owner of
    its parent.

    Raises NotFound for an unknown parent, Finished for one that is finished: nobody would wait for the child.
    """
    if parent_id is not None and key is not None and (child := find_child(session, parent_id, key)) is not None:
        return child
    if parent_id is not None:
        lock(session, parent_id)
        parent = get(session, parent_id)
        if JobStatus(parent.status).finished:
            raise Finished(f"job '{parent_id}' is {parent.status}: it gets no more children")
        owner = parent.owner
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
        owner=owner,
        same_as=same_as,
        retry_of=retry_of,
        created_at=now,
    )
    session.add(job)
    session.flush()
    job_changed(session, job)
    return job


def count_by_kind_and_status(session: Session) -> dict[tuple[str, str], int]:
    """How many jobs there are of each kind and status; those without a job are left out."""
    counted = session.exec(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status))
    return {(kind, status): number for kind, status, number in counted}


def add_done(
    session: Session,
    *,
    kind: JobKind,
    now: datetime,
    payload: Mapping[str, Any],
    result: Mapping[str, Any],
    owner: str | None = None,
) -> Job:
    """Store a job whose result is known already: it has succeeded without an attempt."""
    job = Job(
        id=new_id("job", now),
        kind=kind.value,
        status=JobStatus.SUCCEEDED.value,
        payload=dict(payload),
        result=dict(result),
        owner=owner,
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
    """Let no other transaction change the job or its parent before this one ends, the parent first; SQLite has one
    writer at a time anyway. What the session knows of the job is read again."""
    if session.get_bind().dialect.name == "sqlite":
        if (known := session.identity_map.get(identity_key(Job, job_id))) is not None:
            session.refresh(known)
        return
    if (parent_id := session.exec(select(Job.parent_id).where(Job.id == job_id)).first()) is not None:
        session.get(Job, parent_id, with_for_update=True, populate_existing=True)
    session.get(Job, job_id, with_for_update=True, populate_existing=True)


def find_child(session: Session, parent_id: str, key: str) -> Job | None:
    return session.exec(select(Job).where(Job.parent_id == parent_id, Job.key == key)).first()


def children(session: Session, parent_id: str) -> Sequence[Job]:
    return session.exec(select(Job).where(Job.parent_id == parent_id).order_by(col(Job.id))).all()


def conditions(
    *,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    device: str | None = None,
    parent_id: str | None = None,
) -> list[ColumnElement[bool]]:
    """Which jobs a list shows."""
    wanted = ((Job.kind, kind), (Job.status, status), (Job.device, device), (Job.parent_id, parent_id))
    return [col(column) == value for column, value in wanted if value is not None]


def summaries(session: Session, job_ids: Sequence[str]) -> dict[str, JobView]:
    """Jobs as lists show them, by id."""
    found = session.exec(select(Job).where(col(Job.id).in_(job_ids)).options(*SUMMARY))
    return {job.id: view(session, job, whole=False) for job in found}


def view(session: Session, job: Job, *, whole: bool = True) -> JobView:
    """With `whole` false as lists show it: without its result."""
    return JobView(
        id=job.id,
        kind=JobKind(job.kind),
        status=JobStatus(job.status),
        progress=Progress.model_validate(job.progress) if job.progress else None,
        error=error(job),
        result=job.result if whole else None,
        device=job.device,
        model_id=job.model_id,
        parent_id=job.parent_id,
        attempts=job.attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        url=f"/jobs/{job.id}",
        owner=owner_name(session, job),
        same_as=job.same_as,
        retry_of=job.retry_of,
        not_before=job.not_before,
        wait_until=job.wait_until,
    )


def owner_name(session: Session, job: Job) -> str | None:
    """The name of the token that asked for the job; None for the service's own work."""
    token = session.get(Token, job.owner) if job.owner is not None else None
    return token.name if token is not None else None


def error(job: Job) -> Failure | None:
    """Why the job failed or was cancelled with its parent; None while it may be tried again."""
    final = job.status in (JobStatus.FAILED, JobStatus.CANCELLED)
    return Failure.model_validate(job.failure) if final and job.failure else None


def changed(session: Session, statement: Update) -> bool:
    """Execute an UPDATE; whether it changed a row."""
    session.flush()
    result = session.execute(statement, execution_options={"synchronize_session": False})
    assert isinstance(result, CursorResult)
    return result.rowcount > 0

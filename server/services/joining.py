"""Equal work is done once. A job that occupies a device is joined to an open one with the same request: its own owner
gets that job, and another owner a job that is `same_as` it and ends with it.

The cancellation of one does not end the others: the oldest of them is then done itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from server.services import jobs
from server.services.alone import alone
from server.services.notices import job_changed
from server.services.storable import digest
from server.store.tables import Job
from server.wire import JobKind, JobStatus, Progress


def key_of(kind: JobKind, device: str | None, model_id: str | None, request: Mapping[str, Any]) -> str:
    """What equal requests have in common; stored as the `key` of a job without a parent."""
    return digest({"kind": kind.value, "device": device, "model_id": model_id, "request": dict(request)})


def find_equal(session: Session, kind: JobKind, device: str, key: str, owner: str | None) -> Job | None:
    """The open job with this key: the owner's own, else the one that is done. It stays open until this transaction
    ends, and no other transaction queues an equal one meanwhile."""
    alone(session, f"job:{key}")
    same = (Job.kind == kind.value, Job.device == device, Job.key == key, col(Job.parent_id).is_(None))
    found = session.exec(select(Job).where(*same, col(Job.status).in_(jobs.OPEN)).order_by(col(Job.id))).all()
    own = next((job for job in found if job.owner == owner), None)
    equal = own or next((job for job in found if job.same_as is None), None)
    if equal is None:
        return None
    jobs.lock(session, equal.id)
    return None if JobStatus(equal.status).finished else equal


def waiting_as(other: Job) -> dict[str, Any]:
    """The progress of a job that is the same as another."""
    detail = f"the same work is done by job '{other.id}', with which this one ends"
    return Progress(stage="waiting for an equal job", detail=detail).model_dump()


def end_same(session: Session, job: Job, now: datetime) -> None:
    """End the open jobs that are the same as one that has just finished, as it did. If it was cancelled, the oldest of
    them takes its place in the queue."""
    statement = select(Job).where(Job.same_as == job.id, col(Job.status).in_(jobs.OPEN)).order_by(col(Job.id))
    same = session.exec(statement).all()
    if not same:
        return
    if job.status != JobStatus.CANCELLED:
        change: dict[str, Any] = {
            "status": job.status,
            "result": job.result,
            "failure": job.failure,
            "progress": job.progress,
        }
        change |= {"started_at": job.started_at, "finished_at": now}
        _change(session, same, change)
        return
    first, *others = same
    _change(session, [first], {"same_as": None, "progress": None})
    _change(session, others, {"same_as": first.id, "progress": waiting_as(first)})


def _change(session: Session, same: Sequence[Job], change: dict[str, Any]) -> None:
    for row in same:
        is_open = (col(Job.id) == row.id, col(Job.status).in_(jobs.OPEN))
        jobs.changed(session, update(Job).where(*is_open).values(change))
        session.refresh(row)
        job_changed(session, row)


def sweep(session: Session, now: datetime) -> int:
    """End jobs that are the same as one that is finished already; returns how many there were."""
    left = select(Job.same_as).where(col(Job.same_as).is_not(None), col(Job.status).in_(jobs.OPEN)).distinct()
    finished = select(Job).where(col(Job.id).in_(left), col(Job.status).not_in(jobs.OPEN)).order_by(col(Job.id))
    found = session.exec(finished).all()
    for job in found:
        end_same(session, job, now)
    return len(found)

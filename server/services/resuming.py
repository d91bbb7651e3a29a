"""A parked job goes on when the last job that it waits for has finished, in the same transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, func, select

from server.services.jobs import OPEN, changed
from server.services.notices import job_changed
from server.store.tables import Job
from server.wire import JobStatus

PARKED = (col(Job.status) == JobStatus.RUNNING.value, col(Job.wait_until).is_not(None))
RESUMED = {"status": JobStatus.QUEUED.value, "waits_for": None, "wait_reason": None, "wait_until": None}


def resume_parent(session: Session, job: Job) -> bool:
    """Queue the parent again if it is parked and `job` was the last that it waited for; else show how many are done.

    The transaction holds the parent's lock since before `job` changed, so that of two last children that finish at once
    the second sees the first.
    """
    if job.parent_id is None:
        return False
    parent = session.get_one(Job, job.parent_id, populate_existing=True)
    return resume(session, parent)


def resume(session: Session, parent: Job) -> bool:
    """Queue a job again if it is parked and nothing that it waits for is open."""
    if parent.wait_until is None or parent.waits_for is None:
        return False
    left = count_open(session, parent.waits_for)
    change: dict[str, Any] = RESUMED if left == 0 else {"progress": with_done(parent, left)}
    session.flush()
    is_changed = changed(session, update(Job).where(col(Job.id) == parent.id, *PARKED).values(change))
    session.refresh(parent)
    job_changed(session, parent)
    return is_changed and left == 0


def count_open(session: Session, job_ids: list[str]) -> int:
    """How many of the jobs are not finished."""
    counted = select(func.count()).select_from(Job).where(col(Job.id).in_(job_ids), col(Job.status).in_(OPEN))
    return session.exec(counted).one()


def with_done(parent: Job, left: int) -> dict[str, Any]:
    """The parent's progress with the number of jobs that are finished now."""
    return {**(parent.progress or {}), "done": len(parent.waits_for or ()) - left}

"""The work of a failed or cancelled job once more, by a new job: what has finished stays as it is."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from server.errors import Conflict
from server.services import askers, jobs, searches, submissions
from server.services.askers import Asker
from server.store.tables import Job
from server.wire import Accepted, JobKind, JobStatus


def retry(session: Session, job_id: str, now: datetime, max_attempts: int, asker: Asker) -> Accepted:
    """Queue a job with the same payload, which belongs to the caller; a search gets a new search id. An equal open job
    that occupies the same device is joined.

    Raises NotFound, Forbidden, TooMany, and Conflict for a job that has not failed or is part of another.
    """
    job = jobs.get(session, job_id)
    askers.check_may_change(asker, job)
    if JobStatus(job.status) not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise Conflict(f"job '{job_id}' is {job.status}: only a failed or cancelled job can be tried again")
    if job.parent_id is not None:
        raise Conflict(f"job '{job_id}' was queued by job '{job.parent_id}': try that one again")
    if job.kind == JobKind.SEARCH:
        return _search(session, job, now, max_attempts, asker)
    if job.device is not None:
        return submissions.accepted(_device_work(session, job, now, max_attempts, asker))
    askers.check_room(session, asker)
    again = jobs.enqueue(
        session,
        kind=JobKind(job.kind),
        now=now,
        payload=job.payload,
        model_id=job.model_id,
        key=job.key,
        priority=job.priority,
        max_attempts=job.max_attempts,
        owner=asker.owner,
        retry_of=job.id,
    )
    return submissions.accepted(again)


def _search(session: Session, job: Job, now: datetime, max_attempts: int, asker: Asker) -> Accepted:
    assert job.device is not None
    content = {name: value for name, value in job.payload.items() if name != "search_id"}
    return searches.queue(session, content, job.device, now, max_attempts, asker, retry_of=job.id)


def _device_work(session: Session, job: Job, now: datetime, max_attempts: int, asker: Asker) -> Job:
    assert job.device is not None
    work = submissions.DeviceWork(JobKind(job.kind), job.device, job.payload, job.model_id, job.priority)
    return submissions.queue_or_join(session, work, now, max_attempts, asker, retry_of=job.id)

"""Who hears of a changed job: those who wait for it, and those who could do it now."""

from __future__ import annotations

from sqlmodel import Session

from server.store.hints import COMPUTE, QUEUE, device_topic, hint, job_topic
from server.store.tables import Job
from server.wire import JobKind, JobStatus


def job_changed(session: Session, job: Job) -> None:
    """Call it in the transaction that queued a job or changed its status, progress or result."""
    hint(session, job_topic(job.id))
    if job.status == JobStatus.QUEUED:
        hint(session, COMPUTE if job.device is None or job.kind != JobKind.MEASURE else device_topic(job.device))
    elif job.kind == JobKind.SEARCH and JobStatus(job.status).finished:
        hint(session, QUEUE)  # a calibration on `host` may go on

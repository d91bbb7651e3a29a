"""Jobs that wait for others hold no lease and no thread: parked with a reason, a deadline and a checkpoint.

A parked job is queued again in the transaction that finishes the last job it waits for (`resuming`). It survives
restarts of server and workers, since all of it is in its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from server.services import absence, claims, jobs
from server.services.job_ends import after_end, close_attempt, ended
from server.services.notices import job_changed
from server.services.resuming import PARKED, count_open, resume
from server.store.tables import Job
from server.wire import Failure, JobKind, JobStatus, Progress


@dataclass(frozen=True)
class Waiting:
    """What a job waits for, at most `max_seconds`; afterwards it goes on from `checkpoint`, a JSON object."""

    job_ids: Sequence[str]
    stage: str
    checkpoint: Mapping[str, Any]
    max_seconds: float


@dataclass(frozen=True)
class Swept:
    """How many parked jobs were queued again, and how many failed at their deadline."""

    resumed: int
    overdue: int


def park(session: Session, lease_id: str, attempt: int, waiting: Waiting, now: datetime) -> bool:
    """End the attempt and let the job wait; whether it waits. With nothing left to wait for it is queued again at once.

    Raises NotFound, StaleLease.
    """
    attempt_row = claims.get_attempt(session, lease_id)
    # From here on none of the children can finish unseen: each of them locks its parent first.
    jobs.lock(session, attempt_row.job_id)
    job = jobs.get(session, attempt_row.job_id)
    job_ids = list(waiting.job_ids)
    left = count_open(session, job_ids)
    change: dict[str, Any] = {"checkpoint": dict(waiting.checkpoint), "lease_id": None, "lease_expires_at": None}
    if left == 0:
        change |= {"status": JobStatus.QUEUED.value}
    else:
        why = reason(session, job.device, left, now)
        progress = Progress(stage=waiting.stage, done=len(job_ids) - left, total=len(job_ids), detail=why)
        change |= {
            "status": JobStatus.RUNNING.value,
            "waits_for": job_ids,
            "wait_reason": why,
            "wait_until": now + timedelta(seconds=waiting.max_seconds),
            "progress": progress.model_dump(),
        }
    claims.change_held(session, job, lease_id, attempt, change, jobs.TAKEN)
    close_attempt(attempt_row, "parked", now)
    job_changed(session, job)
    return left > 0


def reason(session: Session, device: str | None, left: int, now: datetime) -> str:
    """Why a job waits, as a sentence for its progress."""
    if device is None:
        return f"waits for {left} other jobs"
    away_since = absence.away_since(session, device, now)
    if away_since is not None:
        return f"waits for device '{device}', which is offline since {away_since:%Y-%m-%d %H:%M:%S} UTC"
    return f"waits for {left} measurement{'s' if left > 1 else ''} on device '{device}'"


def sweep(session: Session, now: datetime) -> Swept:
    """Fail the parked jobs whose deadline has passed, queue those that wait for nothing, and renew the reasons of the
    others."""
    overdue = resumed = 0
    for job_id in session.exec(select(Job.id).where(*PARKED).order_by(col(Job.id))).all():
        jobs.lock(session, job_id)
        job = jobs.get(session, job_id)
        if job.wait_until is None:
            continue
        if resume(session, job):
            resumed += 1
        elif job.wait_until <= now:
            overdue += _fail_overdue(session, job, now)
        else:
            _renew_reason(session, job, now)
    return Swept(resumed, overdue)


def _renew_reason(session: Session, job: Job, now: datetime) -> None:
    why = reason(session, job.device, count_open(session, job.waits_for or []), now)
    if why != job.wait_reason:
        progress = {**(job.progress or {}), "detail": why}
        is_parked = (col(Job.id) == job.id, *PARKED)
        jobs.changed(session, update(Job).where(*is_parked).values(wait_reason=why, progress=progress))


def _fail_overdue(session: Session, job: Job, now: datetime) -> bool:
    failure = Failure(kind="device", detail=_overdue_detail(session, job, now))
    change = {"status": JobStatus.FAILED.value, "failures": job.failures + 1, "failure": failure.model_dump()}
    is_parked = (col(Job.id) == job.id, *PARKED)
    if not jobs.changed(session, update(Job).where(*is_parked).values(change | ended(now))):
        return False
    session.refresh(job)
    job_changed(session, job)
    after_end(session, job, now)
    return True


def _overdue_detail(session: Session, job: Job, now: datetime) -> str:
    why = reason(session, job.device, count_open(session, job.waits_for or []), now)
    until = f"{job.wait_until:%Y-%m-%d %H:%M:%S} UTC"
    other = ", or search without verify" if job.kind == JobKind.SEARCH else ""
    return (
        f"the job {why}, and its time ended at {until}: see to it that the device's agent runs and has no long queue "
        f"(GET /devices, GET /jobs?device={job.device}), then POST /jobs/{job.id}/retry{other}"
    )

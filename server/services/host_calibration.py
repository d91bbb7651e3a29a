"""The service calibrates this machine, device `host`, by itself until it has a predictor."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from server.errors import Conflict, NotFound
from server.services import devices, predictors, submissions, supernets
from server.services.askers import SERVICE
from server.store.blobs import Blobs
from server.store.tables import Job
from server.wire import HOST, Accepted, DeviceState, JobKind, JobRequest, JobStatus

CALIBRATION_TRIES = 3


def calibration_due(session: Session, blobs: Blobs, now: datetime, offline_after: timedelta) -> bool:
    """Whether `host` is idle and has no predictor with a whole file, no calibration of it is open, and the last
    ones did not all fail."""
    try:
        host = devices.get(session, HOST)
        supernet = supernets.resolve(session, None)
    except (NotFound, Conflict):
        return False
    if devices.state(session, host, now, offline_after) is not DeviceState.IDLE:
        return False
    if predictors.newest(session, host.profile_id, supernet.name, blobs) is not None:
        return False
    newest_first = (
        select(Job).where(Job.kind == JobKind.CALIBRATE.value, Job.device == HOST).order_by(col(Job.id).desc())
    )
    last = session.exec(newest_first.limit(CALIBRATION_TRIES)).all()
    if any(not JobStatus(job.status).finished for job in last):
        return False
    return len(last) < CALIBRATION_TRIES or any(job.status != JobStatus.FAILED for job in last)


def submit_calibration(session: Session, now: datetime, max_attempts: int) -> Accepted:
    """Queue a calibration of `host`. Raises NotFound, Conflict."""
    return submissions.submit(session, JobRequest(kind=JobKind.CALIBRATE, device=HOST), now, max_attempts, SERVICE)

"""Work ordered by POST /jobs and /subnets: checked against what is known, then queued."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from server.services import devices, jobs, models, supernets
from server.services.storable import storable
from server.tables import Job
from server.wire import Accepted, JobKind, JobRequest, JobStatus, MeasureProtocol, SubnetRequest

MEASURE_PRIORITY = 5


def order(session: Session, request: JobRequest, now: datetime, max_attempts: int) -> Accepted:
    """Queue a `measure` or `calibrate` job. Raises NotFound, Conflict."""
    assert request.device is not None
    device = devices.get(session, request.device)
    if request.kind is JobKind.MEASURE:
        assert request.model_id is not None
        model = models.get(session, request.model_id)
        protocol = request.protocol or MeasureProtocol()
        return accepted(
            measure(session, model.id, device.name, protocol, now, priority=MEASURE_PRIORITY, max_attempts=max_attempts)
        )
    supernet = supernets.resolve(session, request.supernet)
    payload = {"supernet": supernet.name, "count": request.count}
    return accepted(
        jobs.enqueue(
            session, kind=JobKind.CALIBRATE, now=now, payload=payload, device=device.name, max_attempts=max_attempts
        )
    )


def measure(
    session: Session,
    model_id: str,
    device: str,
    protocol: MeasureProtocol,
    now: datetime,
    *,
    parent_id: str | None = None,
    key: str | None = None,
    priority: int = 0,
    max_attempts: int = 3,
) -> Job:
    """Queue one measuring session; with `parent_id` and `key` it is queued once."""
    return jobs.enqueue(
        session,
        kind=JobKind.MEASURE,
        now=now,
        payload={"protocol": protocol.model_dump(mode="json")},
        device=device,
        model_id=model_id,
        parent_id=parent_id,
        key=key,
        priority=priority,
        max_attempts=max_attempts,
    )


def subnet(session: Session, request: SubnetRequest, now: datetime, max_attempts: int) -> Accepted:
    """Queue the extraction and export of one arch; the payload is `{arch, supernet, precision}`."""
    supernet = supernets.resolve(session, request.supernet)
    payload = {"arch": storable(request.arch), "supernet": supernet.name, "precision": request.precision}
    return accepted(jobs.enqueue(session, kind=JobKind.SUBNET, now=now, payload=payload, max_attempts=max_attempts))


def accepted(job: Job) -> Accepted:
    return Accepted(id=job.id, status=JobStatus(job.status), url=f"/jobs/{job.id}")

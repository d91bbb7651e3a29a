"""POST /jobs for a measurement, the work that is queued most: few statements, and no objects of rows.

`submissions.submit` does the same and more: it says what is wrong, and joins the jobs of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, text
from sqlmodel import Session

from server.services import askers, joining
from server.services.alone import alone
from server.services.askers import Asker
from server.services.jobs import OPEN
from server.store.hints import device_topic, hint, job_topic
from server.store.tables import Job, new_id
from server.wire import Accepted, JobKind, JobRequest, JobStatus, MeasureProtocol

MEASURE_PRIORITY = 5
PLAIN_PROTOCOL = MeasureProtocol()
# Made once: to build a statement takes longer than to run it. A row without a job says only that device and model are
# there. The empty text keeps planners from the index by status, where the open jobs of a busy device are many; those of
# one key are few.
LOOK = text(
    "SELECT job.id, job.status, job.owner "
    "FROM device CROSS JOIN model LEFT JOIN job ON job.parent_id IS NULL AND job.key = :key "
    f"AND job.status || '' IN ({', '.join(repr(status.value) for status in OPEN)}) "
    "WHERE device.name = :device AND model.id = :model_id ORDER BY job.id"
)
INSERT = insert(Job.__table__)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Plan:
    """A request to measure, as it would be stored."""

    device: str
    model_id: str
    protocol: MeasureProtocol
    payload: dict[str, Any]
    key: str

    @classmethod
    def of(cls, request: JobRequest) -> Plan | None:
        """None for other work."""
        if request.kind is not JobKind.MEASURE or request.device is None or request.model_id is None:
            return None
        protocol = request.protocol or PLAIN_PROTOCOL
        payload = {"protocol": protocol.model_dump(mode="json")}
        key = joining.key_of(JobKind.MEASURE, request.device, request.model_id, payload)
        return cls(request.device, request.model_id, protocol, payload, key)


def own_open(session: Session, plan: Plan, asker: Asker) -> Accepted | None:
    """The asker's own open job with this request, found by one read; None without one."""
    return next(
        (_accepted(job.id, job.status) for job in _look(session, plan) if job.id and job.owner == asker.owner), None
    )


def queue(session: Session, plan: Plan, now: datetime, max_attempts: int, asker: Asker) -> Accepted | None:
    """Queue the job, if no equal one is open and nothing is wrong with it; None otherwise.

    Raises BadValue for a session that is too long, TooMany.
    """
    askers.check_session(asker, plan.protocol)
    alone(session, f"job:{plan.key}")
    found = _look(session, plan)
    if not found or found[0].id is not None:
        return None
    askers.check_room(session, asker)
    job_id = new_id("job", now)
    values = {
        "id": job_id,
        "kind": JobKind.MEASURE.value,
        "status": JobStatus.QUEUED.value,
        "priority": MEASURE_PRIORITY,
        "device": plan.device,
        "model_id": plan.model_id,
        "key": plan.key,
        "payload": plan.payload,
        "attempts": 0,
        "failures": 0,
        "max_attempts": max_attempts,
        "owner": asker.owner,
        "created_at": now,
    }
    session.connection().execute(INSERT, values)
    hint(session, job_topic(job_id), device_topic(plan.device))
    return _accepted(job_id, JobStatus.QUEUED.value)


def _look(session: Session, plan: Plan) -> list[Any]:
    """The open jobs with this request, or one row without a job; nothing where the device or the model is not known."""
    place = {"device": plan.device, "model_id": plan.model_id, "key": plan.key}
    return list(session.connection().execute(LOOK, place))


def _accepted(job_id: str, status: str) -> Accepted:
    return Accepted(id=job_id, status=JobStatus(status), url=f"/jobs/{job_id}")

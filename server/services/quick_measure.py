"""POST /jobs for measurements, the work that is queued most: many at once, few statements, and no objects of rows.

`submissions.submit` does the same and more: it says what is wrong, and joins the jobs of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, text
from sqlmodel import Session

from server.errors import BadValue, TooMany
from server.ids import new_id
from server.services import askers, joining
from server.services.alone import all_alone
from server.services.askers import Asker
from server.services.jobs import OPEN
from server.store.hints import device_topic, hint, job_topic
from server.store.tables import Job
from server.wire import Accepted, JobKind, JobRequest, JobStatus, MeasureProtocol

MEASURE_PRIORITY = 5
PLAIN_PROTOCOL = MeasureProtocol()
# Made once: to build a statement takes longer than to run it. The empty text keeps planners from the index by status,
# where the open jobs of a busy device are many; those of one key are few.
EQUAL = text(
    "SELECT key, id, status, owner FROM job WHERE parent_id IS NULL AND key IN :values "
    f"AND status || '' IN ({', '.join(repr(status.value) for status in OPEN)}) ORDER BY id"
).bindparams(bindparam("values", expanding=True))
DEVICES = text("SELECT name FROM device WHERE name IN :values").bindparams(bindparam("values", expanding=True))
MODELS = text("SELECT id FROM model WHERE id IN :values").bindparams(bindparam("values", expanding=True))
INSERT = insert(Job.__table__)  # type: ignore[attr-defined]
Outcome = Accepted | BadValue | TooMany | None


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


@dataclass(frozen=True)
class Wanted:
    """A plan, who wants it and since when."""

    plan: Plan
    now: datetime
    max_attempts: int
    asker: Asker


def queue(session: Session, wanted: Wanted) -> Accepted | None:
    """`queue_all` for one request. Raises BadValue for a session that is too long, TooMany."""
    (outcome,) = queue_all(session, [wanted])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def queue_all(session: Session, wanted: Sequence[Wanted]) -> list[Outcome]:
    """Queue a job for each, or find the asker's own open job with the same request.

    BadValue stands for a session that is too long, TooMany for an owner without room, None for all that the thorough
    way has to look at: an unknown device or model, and a job that another owner has queued.
    """
    all_alone(session, (f"job:{each.plan.key}" for each in wanted))
    batch = _Batch(session, wanted)
    outcomes = [batch.outcome(each) for each in wanted]
    if batch.rows:
        session.connection().execute(INSERT, batch.rows)
        hint(session, *batch.topics)
    return outcomes


class _Batch:
    """What the database holds before the insert, and the rows to insert."""

    def __init__(self, session: Session, wanted: Sequence[Wanted]) -> None:
        self._session = session
        self._devices = {row.name for row in _find(session, DEVICES, (each.plan.device for each in wanted))}
        self._models = {row.id for row in _find(session, MODELS, (each.plan.model_id for each in wanted))}
        self._equal: dict[str, dict[str | None, Accepted]] = {}
        for row in _find(session, EQUAL, (each.plan.key for each in wanted)):
            self._equal.setdefault(row.key, {}).setdefault(row.owner, _accepted(row.id, row.status))
        self._open_jobs: dict[str | None, int] = {}
        self.rows: list[dict[str, Any]] = []
        self.topics: list[str] = []

    def outcome(self, wanted: Wanted) -> Outcome:
        plan, asker = wanted.plan, wanted.asker
        equal = self._equal.setdefault(plan.key, {})
        if asker.owner in equal:
            return equal[asker.owner]
        try:
            askers.check_session(asker, plan.protocol)
            if equal or plan.device not in self._devices or plan.model_id not in self._models:
                return None
            self._take_room(asker)
        except (BadValue, TooMany) as refusal:
            return refusal
        answer = equal[asker.owner] = self._add(wanted)
        return answer

    def _take_room(self, asker: Asker) -> None:
        """Raises TooMany."""
        if asker.max_open_jobs is None:
            return
        if asker.owner not in self._open_jobs:
            self._open_jobs[asker.owner] = askers.open_jobs(self._session, asker)
        askers.check_count(asker, self._open_jobs[asker.owner])
        self._open_jobs[asker.owner] += 1

    def _add(self, wanted: Wanted) -> Accepted:
        plan, job_id = wanted.plan, new_id("job", wanted.now)
        self.rows.append(
            {
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
                "max_attempts": wanted.max_attempts,
                "owner": wanted.asker.owner,
                "created_at": wanted.now,
            }
        )
        self.topics += (job_topic(job_id), device_topic(plan.device))
        return _accepted(job_id, JobStatus.QUEUED.value)


def _find(session: Session, statement: Any, values: Iterable[str]) -> Iterable[Any]:  # noqa: ANN401  a text with values
    return session.connection().execute(statement, {"values": sorted(set(values))})


def _accepted(job_id: str, status: str) -> Accepted:
    return Accepted(id=job_id, status=JobStatus(status), url=f"/jobs/{job_id}")

"""Measuring sessions: accepted once, stored whole, and read by calibrations.

Machines drift in speed, so what is compared is p50 x anchor reference / anchor now. The reference belongs to the device
profile and is fixed with its first predictor; before that a measurement has raw figures only. Measurements of two
device profiles are never mixed; emulated and unstable ones are stored but not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, exists
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from server.errors import BadValue, NotFound, StaleLease
from server.services import claims, devices, job_ends, jobs, model_latency, models
from server.services.statistics import figures
from server.services.storable import digest, storable
from server.store.tables import Job, Measurement, Model, OpRow, Profile, new_id
from server.wire import (
    JobStatus,
    MeasurementDetail,
    MeasurementSession,
    MeasurementView,
    MeasureProtocol,
    OpTime,
    Report,
    Reported,
)

# What lists do not show is not read.
SUMMARY = (defer(Measurement.session, raiseload=True),)  # type: ignore[arg-type]


@dataclass(frozen=True)
class UsableSession:
    """A session of a model with an arch, as predictors need it. `profiled` says that its operators were timed too."""

    measurement_id: str
    model_id: str
    arch_id: str
    arch: dict[str, Any]
    p50_raw_ms: float
    p90_raw_ms: float
    anchor_p50_ms: float
    profiled: bool


def accept(session: Session, report: Report, now: datetime) -> Reported:
    """Accept an agent's report on a lease: store the session and finish the job, or fail the attempt.

    The same report again changes nothing and gets the same answer. Raises NotFound, StaleLease, BadValue.
    """
    attempt = claims.get_attempt(session, report.lease_id)
    jobs.lock(session, attempt.job_id)  # the same report may come twice at once
    session.refresh(attempt)
    fingerprint = digest(report.model_dump())
    if attempt.number == report.attempt and attempt.report_sha256 == fingerprint:
        return _reported(session, jobs.get(session, attempt.job_id), report.lease_id)
    if attempt.report_sha256 is not None:
        raise StaleLease(f"another report on lease '{report.lease_id}' was accepted before: drop this one")
    if report.session is not None:
        job = _measured(session, report, report.session, now)
    else:
        assert report.failure is not None
        job = job_ends.fail(session, report.lease_id, report.attempt, report.failure, now, report.log)
    attempt.report_sha256, attempt.log = fingerprint, report.log
    session.add(attempt)
    session.flush()
    return _reported(session, job, report.lease_id)


def usable(session: Session, profile_id: str, *, supernet: str | None = None) -> list[UsableSession]:
    """The sessions that a predictor of this device profile may be fitted to, oldest first.

    Stable ones, not emulated, with the anchor, of float32 models with an arch: float32 is what predictors predict.
    """
    profiled = exists().where(col(OpRow.measurement_id) == col(Measurement.id))
    columns = (Measurement.id, Measurement.p50_raw_ms, Measurement.p90_raw_ms, Measurement.anchor_p50_ms)
    statement = (
        sqlalchemy.select(*map(col, columns), col(Model.id), col(Model.arch_id), col(Model.arch), profiled)
        .join(Model, col(Model.id) == col(Measurement.model_id))
        .where(
            col(Measurement.profile_id) == profile_id,
            col(Measurement.stable).is_(True),
            col(Measurement.emulated).is_(False),
            col(Measurement.anchor_p50_ms).is_not(None),
            col(Model.arch_id).is_not(None),
            col(Model.precision) == "float32",
        )
        .order_by(col(Measurement.id))
    )
    if supernet is not None:
        statement = statement.where(col(Model.supernet) == supernet)
    return [
        UsableSession(
            measurement_id=measurement_id,
            model_id=model_id,
            arch_id=arch_id,
            arch=arch,
            p50_raw_ms=p50_raw_ms,
            p90_raw_ms=p90_raw_ms,
            anchor_p50_ms=anchor_p50_ms,
            profiled=is_profiled,
        )
        for measurement_id, p50_raw_ms, p90_raw_ms, anchor_p50_ms, model_id, arch_id, arch, is_profiled in (
            session.execute(statement)
        )
    ]


def fix_anchor_reference(session: Session, profile_id: str) -> float:
    """The device profile's anchor reference in ms; the first call fixes it as the median of the anchor p50s so far.

    Raises BadValue while no usable session measured the anchor.
    """
    profile = devices.get_profile(session, profile_id)
    if profile.anchor_reference_ms is None:
        measured = session.exec(select(Measurement).where(Measurement.profile_id == profile_id)).all()
        anchors = [m.anchor_p50_ms for m in measured if m.anchor_p50_ms is not None and m.stable and not m.emulated]
        if not anchors:
            raise BadValue("no stable measurement with the anchor yet: measure on this device first")
        profile.anchor_reference_ms = median(anchors)
        session.add(profile)
        for measurement in measured:
            _normalise(measurement, profile)
            session.add(measurement)
        session.flush()
    return profile.anchor_reference_ms


def get(session: Session, measurement_id: str) -> Measurement:
    """Raises NotFound."""
    measurement = session.get(Measurement, measurement_id)
    if measurement is None:
        raise NotFound(f"there is no measurement '{measurement_id}': GET /measurements lists them")
    return measurement


def of_job(session: Session, job_id: str, model_id: str | None = None) -> Measurement | None:
    """The measurement of a job, None when it has none or, with `model_id`, when it is of another model."""
    row = session.exec(select(Measurement).where(Measurement.job_id == job_id)).first()
    return row if row is None or model_id in (None, row.model_id) else None


def ops(session: Session, measurement_id: str) -> tuple[OpTime, ...]:
    """The operator profile of a session, in execution order."""
    statement = select(OpRow).where(OpRow.measurement_id == measurement_id).order_by(col(OpRow.position))
    return tuple(
        OpTime.model_validate(op.model_dump(include=set(OpTime.model_fields))) for op in session.exec(statement)
    )


def conditions(
    *, model_id: str | None = None, device: str | None = None, profile_id: str | None = None
) -> list[ColumnElement[bool]]:
    """Which measurements a list shows."""
    wanted = ((Measurement.model_id, model_id), (Measurement.device, device), (Measurement.profile_id, profile_id))
    return [col(column) == value for column, value in wanted if value is not None]


def summaries(session: Session, measurement_ids: Sequence[str]) -> dict[str, MeasurementView]:
    """Measurements as lists show them, by id."""
    found = session.exec(select(Measurement).where(col(Measurement.id).in_(measurement_ids)).options(*SUMMARY))
    return {measurement.id: view(measurement) for measurement in found}


def view(measurement: Measurement) -> MeasurementView:
    return MeasurementView(**{name: getattr(measurement, name) for name in MeasurementView.model_fields})


def detail(session: Session, measurement: Measurement) -> MeasurementDetail:
    profile = [op.model_dump() for op in ops(session, measurement.id)]
    raw = MeasurementSession.model_validate({**measurement.session, "profile": profile or None})
    return MeasurementDetail(**view(measurement).model_dump(), session=raw)


def _measured(session: Session, report: Report, measured: MeasurementSession, now: datetime) -> Job:
    job = jobs.get(session, claims.get_attempt(session, report.lease_id).job_id)
    if measured.device.name != job.device:
        raise BadValue(f"this lease is for device '{job.device}', the report is from '{measured.device.name}'")
    measurement_id = new_id("measurement", now)
    job = job_ends.finish(session, report.lease_id, report.attempt, {"measurement_id": measurement_id}, now)
    row = _row(session, job, report.lease_id, measurement_id, measured, now)
    session.add(row)
    session.flush()
    model_latency.add_measured(session, row)
    for position, op in enumerate(measured.profile or ()):
        session.add(OpRow(measurement_id=measurement_id, position=position, **op.model_dump()))
    return job


def _row(
    session: Session, job: Job, lease_id: str, measurement_id: str, measured: MeasurementSession, now: datetime
) -> Measurement:
    assert job.model_id is not None and job.device is not None
    protocol = MeasureProtocol.model_validate(job.payload["protocol"])
    profile = devices.ensure_profile(session, measured.device.profile(protocol.threads, protocol.cpu_mask), now)
    result = figures(measured)
    anchor = models.anchor(session)
    row = Measurement(
        id=measurement_id,
        lease_id=lease_id,
        job_id=job.id,
        model_id=job.model_id,
        profile_id=profile.id,
        device=job.device,
        p50_raw_ms=result.p50_raw_ms,
        p90_raw_ms=result.p90_raw_ms,
        anchor_p50_ms=result.anchor_p50_ms,
        anchor_sha256=anchor.sha256 if anchor and result.anchor_p50_ms is not None else None,
        cv=result.cv,
        anchor_drift=result.anchor_drift,
        stable=result.unstable_reason is None,
        unstable_reason=result.unstable_reason,
        emulated=measured.emulated or measured.device.kind == "emulated",
        fully_accelerated=measured.fully_accelerated,
        samples=result.samples,
        session=storable(measured.model_dump(mode="json", exclude={"profile"})),
        created_at=now,
    )
    _normalise(row, profile)
    return row


def _normalise(measurement: Measurement, profile: Profile) -> None:
    if profile.anchor_reference_ms is not None and measurement.anchor_p50_ms:
        speed = profile.anchor_reference_ms / measurement.anchor_p50_ms
        measurement.p50_ms, measurement.p90_ms = measurement.p50_raw_ms * speed, measurement.p90_raw_ms * speed


def _reported(session: Session, job: Job, lease_id: str) -> Reported:
    stored = session.exec(select(Measurement.id).where(Measurement.lease_id == lease_id)).first()
    return Reported(job_id=job.id, status=JobStatus(job.status), measurement_id=stored)

"""Measuring sessions as they are stored: read by calibrations, listed and shown. `services/reports.py` stores them.

Machines drift in speed, so what is compared is p50 x anchor reference / anchor now. The reference belongs to the device
profile and is fixed with its first predictor; before that a measurement has raw figures only. Measurements of two
device profiles are never mixed; emulated and unstable ones are stored but not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, exists, or_
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from server.errors import BadValue, NotFound
from server.services import devices, p90
from server.store.tables import Device, Measurement, Model, OpRow, Profile
from server.wire import (
    MeasurementDetail,
    MeasurementSession,
    MeasurementView,
    OpTime,
)

# What lists do not show is not read.
SUMMARY = (defer(Measurement.session, raiseload=True),)  # type: ignore[arg-type]
SHOWN = MeasurementView.model_fields.keys() & Measurement.model_fields.keys()


@dataclass(frozen=True)
class UsableSession:
    """A session of a model with an arch, as predictors need it. `profiled` says that its operators were timed too.

    `p90_raw_ms` is None where it is not stable.
    """

    measurement_id: str
    model_id: str
    arch_id: str
    arch: dict[str, Any]
    p50_raw_ms: float
    p90_raw_ms: float | None
    anchor_p50_ms: float
    profiled: bool


def usable(
    session: Session, profile_id: str, *, supernet: str | None = None, device: str | None = None
) -> list[UsableSession]:
    """The sessions that a predictor of this device profile may be fitted to, oldest first.

    Stable ones, not emulated, with the anchor, of float32 models with an arch: float32 is what predictors predict. With
    `device`, only those that it can trust.
    """
    profiled = exists().where(col(OpRow.measurement_id) == col(Measurement.id))
    times = (Measurement.p50_raw_ms, Measurement.p90_raw_ms, Measurement.anchor_p50_ms)
    columns = (*map(col, times), col(Measurement.p90_stable), col(Model.id), col(Model.arch_id), col(Model.arch))
    statement = (
        sqlalchemy.select(col(Measurement.id), *columns, profiled)
        .join(Model, col(Model.id) == col(Measurement.model_id))
        .where(
            col(Measurement.profile_id) == profile_id,
            col(Measurement.stable).is_(True),
            col(Measurement.emulated).is_(False),
            col(Measurement.anchor_p50_ms).is_not(None),
            col(Model.arch_id).is_not(None),
            col(Model.precision) == "float32",
            *_trusted_by(device),
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
            p90_raw_ms=p90_raw_ms if p90_stable else None,
            anchor_p50_ms=anchor_p50_ms,
            profiled=is_profiled,
        )
        for (
            measurement_id,
            p50_raw_ms,
            p90_raw_ms,
            anchor_p50_ms,
            p90_stable,
            model_id,
            arch_id,
            arch,
            is_profiled,
        ) in session.execute(statement)
    ]


def fix_anchor_reference(session: Session, profile_id: str, device: str | None = None) -> float:
    """The device profile's anchor reference in ms; the first call fixes it as the median of the anchors so far. With
    `device`, only of those that it can trust.

    Raises BadValue while no usable session measured the anchor.
    """
    profile = devices.get_profile(session, profile_id)
    if profile.anchor_reference_ms is None:
        of_profile = col(Measurement.profile_id) == profile_id
        measured = session.exec(select(Measurement).where(of_profile)).all()
        trusted = set(session.exec(select(Measurement.id).where(of_profile, *_trusted_by(device))).all())
        usable = [m for m in measured if m.id in trusted and m.stable and not m.emulated]
        anchors = [m.anchor_p50_ms for m in usable if m.anchor_p50_ms is not None]
        if not anchors:
            raise BadValue("no stable measurement with the anchor yet: measure on this device first")
        profile.anchor_reference_ms = median(anchors)
        session.add(profile)
        for measurement in measured:
            normalise(measurement, profile)
            session.add(measurement)
        session.flush()
    return profile.anchor_reference_ms


def _trusted_by(device: str | None) -> list[ColumnElement[bool]]:
    """True for the sessions of the device itself, and of those with the same token: another agent may say of its own
    device that it has this device profile."""
    if device is None:
        return []
    token_id = select(Device.token_id).where(Device.name == device).scalar_subquery()
    same_token = select(Device.name).where(col(Device.token_id) == token_id)
    return [or_(col(Measurement.device) == device, col(Measurement.device).in_(same_token))]


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
    shown = {name: getattr(measurement, name) for name in SHOWN}
    lower_ms, upper_ms = p90.interval_ms(measurement)
    judged = {
        "p90_raw_ms": p90.reported_raw_ms(measurement),
        "p90_ms": p90.reported_ms(measurement),
        "p90_lower_ms": lower_ms,
        "p90_upper_ms": upper_ms,
        "p90_lower_raw_ms": measurement.p90_lower_ms,
        "p90_upper_raw_ms": measurement.p90_upper_ms,
    }
    return MeasurementView(**shown | judged)


def detail(session: Session, measurement: Measurement) -> MeasurementDetail:
    profile = [op.model_dump() for op in ops(session, measurement.id)]
    raw = MeasurementSession.model_validate({**measurement.session, "profile": profile or None})
    return MeasurementDetail(**view(measurement).model_dump(), session=raw)


def normalise(measurement: Measurement, profile: Profile) -> None:
    """Write p50 and p90 at the anchor's reference speed, once the device profile has one."""
    if profile.anchor_reference_ms is not None and measurement.anchor_p50_ms:
        speed = profile.anchor_reference_ms / measurement.anchor_p50_ms
        measurement.p50_ms, measurement.p90_ms = measurement.p50_raw_ms * speed, measurement.p90_raw_ms * speed

"""The p90 of stored sessions: whether it is reported, whether it can be relied on, and its interval.

The interval is stored in ms of the clock, like `p90_raw_ms`. What few samples do not allow is not reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from sqlmodel import Session, col, select

from elasticvit.errors import PredictorError
from elasticvit.latency.tail import FEWEST_SAMPLES
from server.services.statistics import Figures, figures
from server.store.tables import Measurement
from server.wire import MeasurementSession


def judge(row: Measurement, measured: Figures, doubts: Sequence[str] = ()) -> None:
    """Write the interval of the p90 to a measurement, and whether it is stable. `doubts` are reasons that concern the
    whole session: where its p50 is not stable, nor is its p90."""
    reasons = [*doubts, *([measured.p90_unstable_reason] if measured.p90_unstable_reason else [])]
    row.p90_lower_ms, row.p90_upper_ms = measured.p90_lower_raw_ms, measured.p90_upper_raw_ms
    row.p90_stable, row.p90_unstable_reason = not reasons, "; ".join(reasons) or None


def judge_old(session: Session, profile_id: str) -> None:
    """Judge the sessions of a device profile that a version stored which did not judge p90s."""
    unknown = (Measurement.profile_id == profile_id, col(Measurement.p90_stable).is_(None))
    for row in session.exec(select(Measurement).where(*unknown)).all():
        _judge_old(row)
        session.add(row)
    session.flush()


def _judge_old(row: Measurement) -> None:
    try:
        measured = figures(MeasurementSession.model_validate(row.session))
    except (ValidationError, PredictorError):
        row.p90_stable, row.p90_unstable_reason = False, "the stored session is not within the bounds of this version"
    else:
        judge(row, measured, [] if row.stable else [row.unstable_reason or "its rounds differ too much"])


def reported_raw_ms(row: Measurement) -> float | None:
    """None where there are too few samples for a p90."""
    return row.p90_raw_ms if row.samples >= FEWEST_SAMPLES else None


def reported_ms(row: Measurement) -> float | None:
    """At the anchor's reference speed; None also before the device profile has one."""
    return row.p90_ms if row.samples >= FEWEST_SAMPLES else None


def interval_ms(row: Measurement) -> tuple[float | None, float | None]:
    """Lower and upper bound at the anchor's reference speed; None as `reported_ms`, or where there is no interval."""
    if row.p90_ms is None or row.p90_lower_ms is None or row.p90_upper_ms is None:
        return None, None
    speed = row.p90_ms / row.p90_raw_ms
    return row.p90_lower_ms * speed, row.p90_upper_ms * speed

"""Latency predictors and what they answer."""

from __future__ import annotations

from typing import Any

from server.wire.base import Answer, Statistic, UtcTime


class LatencyAnswer(Answer):
    """Latency on one device. All but `measured_raw_ms` are normalised by the anchor.

    `verified` is True only when a stable measurement of this very file lies within the budget.
    """

    predicted_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    confidence: float | None = None
    measured_ms: float | None = None
    measured_raw_ms: float | None = None
    verified: bool = False
    statistic: Statistic = "p50"
    calibrated: bool = True


class PredictorRef(Answer):
    """The predictor version an answer rests on."""

    id: str
    device: str
    version: int


class PredictorView(Answer):
    """A predictor version of one device profile; `smallest` and `largest` are predicted ends of the reachable range."""

    id: str
    version: int
    device: str
    profile_id: str
    supernet: str
    anchor_reference_ms: float
    smallest: dict[str, Any]
    largest: dict[str, Any]
    summary: dict[str, Any]
    created_at: UtcTime

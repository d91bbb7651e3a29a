"""From the raw samples of a session to its figures: quantiles, the anchor's, and whether it was stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles, stdev

from server.wire import MeasurementSession

MAX_CV = 0.10
MAX_ANCHOR_DRIFT = 0.25
NS_PER_MS = 1e6


@dataclass(frozen=True)
class Figures:
    """Raw latencies in ms; `cv` is the spread of the rounds' model-to-anchor ratios, `anchor_drift` max / min - 1."""

    p50_raw_ms: float
    p90_raw_ms: float
    anchor_p50_ms: float | None
    cv: float | None
    anchor_drift: float | None
    unstable_reason: str | None
    samples: int


def figures(session: MeasurementSession) -> Figures:
    model = [[ns / NS_PER_MS for ns in each.model.samples_ns] for each in session.rounds]
    anchor = [[ns / NS_PER_MS for ns in each.anchor.samples_ns] for each in session.rounds if each.anchor]
    complete = len(anchor) == len(model)
    model_p50s, anchor_p50s = [median(samples) for samples in model], [median(samples) for samples in anchor]
    ratios = [m / a for m, a in zip(model_p50s, anchor_p50s, strict=True)] if complete else model_p50s
    cv = stdev(ratios) / (sum(ratios) / len(ratios)) if len(ratios) > 1 else None
    drift = max(anchor_p50s) / min(anchor_p50s) - 1 if len(anchor_p50s) > 1 else None
    samples = [sample for each in model for sample in each]
    return Figures(
        p50_raw_ms=median(samples),
        p90_raw_ms=quantile90(samples),
        anchor_p50_ms=median([sample for each in anchor for sample in each]) if complete else None,
        cv=cv,
        anchor_drift=drift,
        unstable_reason=_unstable(cv, drift),
        samples=len(samples),
    )


def quantile90(samples: Sequence[float]) -> float:
    """Linear between order statistics, as numpy does it."""
    return quantiles(samples, n=10, method="inclusive")[-1] if len(samples) > 1 else samples[0]


def _unstable(cv: float | None, drift: float | None) -> str | None:
    if cv is not None and cv > MAX_CV:
        return f"the rounds differ by a CV of {cv:.0%}, more than {MAX_CV:.0%}"
    if drift is not None and drift > MAX_ANCHOR_DRIFT:
        return f"the anchor drifted by {drift:.0%} during the session, more than {MAX_ANCHOR_DRIFT:.0%}"
    return None

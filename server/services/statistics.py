"""The figures of a session from its raw samples: quantiles, those of the anchor, and which of them are stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from elasticvit.latency.normalise import p50_ms, p90_ms, stability
from elasticvit.latency.tail import judge_p90
from server.wire import BenchRun, MeasurementSession


@dataclass(frozen=True)
class Figures:
    """Raw latencies in ms; `cv` and `anchor_drift` as `elasticvit.latency.normalise.Stability` has them.

    Without an anchor in every round the ratio's spread is that of the model alone, and there is no drift. `p90` is
    judged apart: its reason is None where the p90 itself can be relied on.
    """

    p50_raw_ms: float
    p90_raw_ms: float
    anchor_p50_ms: float | None
    cv: float | None
    anchor_drift: float | None
    unstable_reason: str | None
    samples: int
    p90_lower_raw_ms: float | None
    p90_upper_raw_ms: float | None
    p90_unstable_reason: str | None


def figures(session: MeasurementSession) -> Figures:
    """The figures of a session: quantiles over the samples of all rounds, stability over the rounds.

    Raises PredictorError for a session without samples, which the wire does not allow.
    """
    model = [measured.model for measured in session.rounds]
    anchor = [measured.anchor for measured in session.rounds if measured.anchor is not None]
    complete = len(anchor) == len(model)
    samples = _samples(model)
    anchor_p50s_ms = _medians_ms(anchor) if complete else [1.0] * len(model)
    stable = stability(_medians_ms(model), anchor_p50s_ms)
    tail = judge_p90([run.samples_ns for run in model], [run.samples_ns for run in anchor])
    several = len(model) > 1
    return Figures(
        p50_raw_ms=p50_ms(samples),
        p90_raw_ms=p90_ms(samples),
        anchor_p50_ms=p50_ms(_samples(anchor)) if complete else None,
        cv=stable.cv if several else None,
        anchor_drift=stable.drift if several and complete else None,
        unstable_reason=stable.reason or None,
        samples=len(samples),
        p90_lower_raw_ms=tail.lower_ms,
        p90_upper_raw_ms=tail.upper_ms,
        p90_unstable_reason=tail.reason or None,
    )


def _samples(runs: Sequence[BenchRun]) -> list[int]:
    return [sample for run in runs for sample in run.samples_ns]


def _medians_ms(runs: Sequence[BenchRun]) -> list[float]:
    return [median(run.samples_ns) / 1e6 for run in runs]

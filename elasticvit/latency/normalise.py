"""Percentiles of a session's samples, and the stability of a session. Standard library only.

Machines drift in speed, so every session interleaves a fixed anchor with the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from elasticvit.errors import PredictorError

# Above these a session is kept, but marked unstable and not used.
LARGEST_CV = 0.10
LARGEST_DRIFT = 0.25
# From this number of rounds on one may be disturbed: the median over all samples is robust against it.
FORGIVING_ROUNDS = 5


def percentile(samples: Sequence[float], percent: float) -> float:
    """The percentile by linear interpolation between order statistics (as numpy's). Raises `PredictorError`."""
    if not samples:
        raise PredictorError("no samples: the run measured nothing; look at its log")
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def p50_ms(samples_ns: Sequence[int]) -> float:
    """Median of raw samples in nanoseconds, milliseconds."""
    return percentile(samples_ns, 50) / 1e6


def p90_ms(samples_ns: Sequence[int]) -> float:
    """90th percentile of raw samples in nanoseconds, milliseconds."""
    return percentile(samples_ns, 90) / 1e6


@dataclass(frozen=True, slots=True)
class Stability:
    """Whether the numbers of a session can be used.

    Attributes:
        cv: coefficient of variation, over rounds, of the model's p50 to the anchor's.
        drift: of the anchor's p50 over the rounds: largest / smallest - 1.
            With five rounds or more, both ignore the round farthest from the median.
        reason: why the session is not stable, or "".
    """

    cv: float
    drift: float
    reason: str

    @property
    def stable(self) -> bool:
        return not self.reason


def stability(
    model_p50s_ms: Sequence[float],
    anchor_p50s_ms: Sequence[float],
    largest_cv: float = LARGEST_CV,
    largest_drift: float = LARGEST_DRIFT,
) -> Stability:
    """Stability of a session from the p50 of model and anchor in each round. Raises `PredictorError` without rounds."""
    if len(model_p50s_ms) != len(anchor_p50s_ms) or not model_p50s_ms:
        raise PredictorError(
            f"a session needs one p50 of model and anchor per round, got {len(model_p50s_ms)} and {len(anchor_p50s_ms)}"
        )
    if min(*model_p50s_ms, *anchor_p50s_ms) <= 0:
        raise PredictorError("a p50 of zero or less: the clock of the device cannot be trusted")
    ratios = [model / anchor for model, anchor in zip(model_p50s_ms, anchor_p50s_ms, strict=True)]
    ratios, anchors = _forgiven(ratios), _forgiven(anchor_p50s_ms)
    cv = stdev(ratios) / fmean(ratios) if len(ratios) > 1 else 0.0
    drift = max(anchors) / min(anchors) - 1
    reasons = []
    if cv > largest_cv:
        reasons.append(f"the ratio to the anchor varies by {cv:.0%} over rounds (at most {largest_cv:.0%})")
    if drift > largest_drift:
        reasons.append(f"the anchor drifted by {drift:.0%} (at most {largest_drift:.0%})")
    return Stability(cv, drift, "; ".join(reasons))


def _forgiven(rounds: Sequence[float]) -> list[float]:
    """The rounds without the one farthest from their median, if there are enough."""
    middle = median(rounds)
    kept = sorted(rounds, key=lambda value: abs(value - middle))
    return kept[:-1] if len(kept) >= FORGIVING_ROUNDS else kept

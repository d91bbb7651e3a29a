"""Samples of a session to numbers that can be compared: percentiles, the anchor's speed, and whether to believe them.

Machines drift in speed. Every session measures a fixed anchor in between, and latencies are stated at the speed at
which the anchor takes its reference time. Standard library only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from elasticvit.errors import PredictorError

# Beyond these a session is kept, marked unstable, and not used.
LARGEST_CV = 0.10
LARGEST_DRIFT = 0.25
# With so many rounds one may be disturbed: a median over all samples does not feel it.
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
    """Whether a session's numbers can be used.

    Attributes:
        cv: coefficient of variation, over rounds, of the model's p50 to the anchor's.
        drift: how far the anchor's p50 moved over the rounds: largest / smallest - 1.
            Both leave out the one round farthest from the median where there are five or more.
        reason: why it is not stable, or "".
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
    """Judge a session by its rounds, one p50 of model and anchor each. Raises `PredictorError` without rounds."""
    if len(model_p50s_ms) != len(anchor_p50s_ms) or not model_p50s_ms:
        raise PredictorError(
            f"a session needs one p50 of model and anchor a round, got {len(model_p50s_ms)} and {len(anchor_p50s_ms)}"
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
    """The rounds without the one farthest from their median, where there are enough."""
    middle = median(rounds)
    kept = sorted(rounds, key=lambda value: abs(value - middle))
    return kept[:-1] if len(kept) >= FORGIVING_ROUNDS else kept

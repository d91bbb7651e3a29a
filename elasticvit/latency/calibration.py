"""From the sum over blocks to the time of a whole network, with an interval: fitted to whole networks measured.

Everything is in logarithms, since errors of latencies are relative. The sums that it is fitted to must come from tables
fitted without the network in question, so that the residuals are those of networks never seen.

The interval is jackknife conformal: each residual is taken against a calibration fitted without it, and the bound is
the ⌈(n + 1)·confidence⌉-th smallest of their sizes (Vovk et al.; Barber et al. 2021, "Predictive inference with the
jackknife+"). With few networks that rank does not exist for a high confidence: then Student's t on the same residuals
is used instead, and never a bound below the largest residual seen.
"""

from dataclasses import dataclass
from math import ceil, exp, inf, log, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from elasticvit.errors import PredictorError

Statistic = Literal["p50", "p90"]
Array = NDArray[np.float64]
LOWEST_CONFIDENCE, HIGHEST_CONFIDENCE = 0.5, 0.99
# A slope between sum and time is only fitted with this many networks over this wide a range, and never far from 1.
SLOPE_MODELS, SLOPE_RANGE, SLOPES = 12, log(3.0), (0.85, 1.15)


@dataclass(frozen=True, slots=True)
class Line:
    """log time = offset + slope · log sum."""

    offset: float
    slope: float = 1.0

    def apply(self, sums: Array) -> Array:
        return np.asarray(np.exp(self.offset + self.slope * np.log(sums)), np.float64)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One statistic of a whole network from its sum over blocks, milliseconds.

    Attributes:
        residuals: log of measured over predicted, each without the network itself, ascending.
        spread: instead of residuals, an assumed standard deviation of the log; 0 where residuals decide.
    """

    line: Line
    residuals: tuple[float, ...] = ()
    spread: float = 0.0

    def predict(self, sums: Array) -> Array:
        return self.line.apply(sums)

    def factor(self, confidence: float) -> float:
        """The interval is prediction / factor … prediction · factor. Raises `PredictorError` for a confidence outside
        0.5 … 0.99."""
        return exp(self._half_width(check_confidence(confidence)))

    def method(self, confidence: float) -> str:
        """How the interval of that confidence comes about: "conformal", "student-t" or "assumed"."""
        if self.spread:
            return "assumed"
        return "conformal" if self._rank(check_confidence(confidence)) <= len(self.residuals) else "student-t"

    def _rank(self, confidence: float) -> int:
        # 0.9 · 20 is 18.000000000000004 in floating point, and no 19th rank was meant.
        return ceil(round((len(self.residuals) + 1) * confidence, 9))

    def _half_width(self, confidence: float) -> float:
        if self.spread:
            return float(stats.norm.ppf((1 + confidence) / 2)) * self.spread
        sizes = sorted(abs(r) for r in self.residuals)
        rank, n = self._rank(confidence), len(sizes)
        if rank <= n:
            return sizes[rank - 1]
        deviation = sqrt(sum(s * s for s in sizes) / max(n - 1, 1))
        return max(float(stats.t.ppf((1 + confidence) / 2, n - 1)) * deviation * sqrt(1 + 1 / n), sizes[-1])


def check_confidence(confidence: float) -> float:
    """The confidence itself, or `PredictorError`."""
    if not LOWEST_CONFIDENCE <= confidence <= HIGHEST_CONFIDENCE:
        raise PredictorError(f"confidence must be {LOWEST_CONFIDENCE} to {HIGHEST_CONFIDENCE}, got {confidence}")
    return confidence


def fit_calibration(sums: Array, measured: Array, slope: float | None = None) -> Calibration:
    """Fit to sums over blocks (n,) and measured times (n,), both milliseconds; with a given slope, the ratio only."""
    x, y = np.log(sums), np.log(measured)
    line = _fit_line(x, y, slope)
    keep = ~np.eye(len(x), dtype=bool)
    without = [_fit_line(x[others], y[others], slope) for others in keep] if len(x) > 1 else [line]
    residuals = [float(b - line.offset - line.slope * a) for a, b, line in zip(x, y, without, strict=True)]
    return Calibration(line, tuple(sorted(residuals)))


def _fit_line(x: Array, y: Array, slope: float | None) -> Line:
    """Robust: the median ratio, and, unless it is given, a Theil–Sen slope where there is evidence for one."""
    if slope is None:
        slope = _slope(x, y)
    return Line(float(np.median(y - slope * x)), slope)


def _slope(x: Array, y: Array) -> float:
    if len(x) < SLOPE_MODELS or float(np.ptp(x)) < SLOPE_RANGE:
        return 1.0
    found, _, low, high = stats.theilslopes(y, x)
    return 1.0 if low <= 1.0 <= high else float(np.clip(found, *SLOPES))


def within(residuals: tuple[float, ...], part: float = 0.1) -> float:
    """Which part of the networks was predicted within ±part of its time."""
    errors = [abs(exp(-r) - 1) for r in residuals]
    return sum(e <= part for e in errors) / len(errors) if errors else -inf


def mean_error(residuals: tuple[float, ...]) -> float:
    """Mean absolute error of the prediction over the measured time."""
    return float(np.mean([abs(exp(-r) - 1) for r in residuals])) if residuals else inf

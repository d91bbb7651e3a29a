"""Calibration: from the sum over blocks to the time of a whole network, with an interval, fitted to measured networks.

It is fitted in logarithms, since errors of latencies are relative. The sums must come from block times fitted without
the network in question, so that the residuals are those of unseen networks.

The interval is a jackknife conformal interval: each residual is that of a calibration fitted without its network, and
the bound is the ⌈(n + 1)·confidence⌉-th smallest absolute residual (Vovk et al.; Barber et al. 2021, "Predictive
inference with the jackknife+"). With few networks this rank does not exist for a high confidence: then the bound is
Student's t on the same residuals, but not below the largest absolute residual.
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
# A slope is only fitted with at least this many networks over at least this range of sums, and clipped to SLOPES.
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
        residuals: log of measured over predicted, each predicted without the network itself, ascending.
        spread: an assumed standard deviation of the log, in place of residuals; 0 if there are residuals.
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
        """The method behind the interval of this confidence: "conformal", "student-t" or "assumed"."""
        if self.spread:
            return "assumed"
        return "conformal" if self._rank(check_confidence(confidence)) <= len(self.residuals) else "student-t"

    def _rank(self, confidence: float) -> int:
        # 0.9 · 20 is 18.000000000000004 in floating point: without rounding the rank would be 19.
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
    """Return the confidence; raise `PredictorError` if it is outside 0.5 to 0.99."""
    if not LOWEST_CONFIDENCE <= confidence <= HIGHEST_CONFIDENCE:
        raise PredictorError(f"confidence must be {LOWEST_CONFIDENCE} to {HIGHEST_CONFIDENCE}, got {confidence}")
    return confidence


def fit_calibration(sums: Array, measured: Array, slope: float | None = None) -> Calibration:
    """Fit to sums over blocks (n,) and measured times (n,), both milliseconds; if a slope is given, only the offset."""
    x, y = np.log(sums), np.log(measured)
    line = _fit_line(x, y, slope)
    keep = ~np.eye(len(x), dtype=bool)
    without = [_fit_line(x[rows], y[rows], slope) for rows in keep] if len(x) > 1 else [line]
    residuals = [float(b - line.offset - line.slope * a) for a, b, line in zip(x, y, without, strict=True)]
    return Calibration(line, tuple(sorted(residuals)))


def _fit_line(x: Array, y: Array, slope: float | None) -> Line:
    """A robust fit: the median ratio, and, if no slope is given, a Theil–Sen slope if it clearly differs from 1."""
    if slope is None:
        slope = _slope(x, y)
    return Line(float(np.median(y - slope * x)), slope)


def _slope(x: Array, y: Array) -> float:
    if len(x) < SLOPE_MODELS or float(np.ptp(x)) < SLOPE_RANGE:
        return 1.0
    slope, _, low, high = stats.theilslopes(y, x)
    return 1.0 if low <= 1.0 <= high else float(np.clip(slope, *SLOPES))


def within(residuals: tuple[float, ...], tolerance: float = 0.1) -> float:
    """The fraction (0 to 1) of networks that were predicted within ±tolerance, relative, of their time."""
    errors = [abs(exp(-r) - 1) for r in residuals]
    return sum(e <= tolerance for e in errors) / len(errors) if errors else -inf


def mean_error(residuals: tuple[float, ...]) -> float:
    """Mean absolute relative error of the predictions."""
    return float(np.mean([abs(exp(-r) - 1) for r in residuals])) if residuals else inf

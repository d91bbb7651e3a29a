"""Means over a few seeds, with intervals that are wide when there are few."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean of n values and half the width of its interval; infinitely wide for a single value."""

    value: float
    half: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.value) > self.half


def mean_of(values: Sequence[float], confidence: float = CONFIDENCE) -> Mean:
    """Mean and Student's t-interval of independent values, one per seed.

    With 3 seeds the interval is 2.5 standard deviations wide on either side: rather a warning than a measurement.

    Raises:
        ValueError: there are no values.
    """
    from scipy.stats import t

    if not values:
        raise ValueError("a mean needs values")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Mean(mean, math.inf, 1)
    quantile = float(t.ppf(0.5 + confidence / 2, n - 1))
    return Mean(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(n), n)


def paired(after: Sequence[float], before: Sequence[float]) -> Mean:
    """Mean of the differences of values that belong to each other: the same seed, so the same images in one order.

    What a seed does to both cancels out, so this is narrower than the difference of two means.
    """
    return mean_of([a - b for a, b in zip(after, before, strict=True)])


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)

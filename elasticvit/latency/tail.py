"""The 90th percentile of a session: its interval, and whether it can be relied on. Standard library only.

A p50 that is stable says nothing of the p90: a device that does other things a tenth of the time has the same p50, and
any p90. So the p90 has an interval of its own, the hull of two:

- from the samples of all rounds together, the order statistics of a distribution-free interval (David and Nagaraja
  2003, Order Statistics, section 7.1): the ranks r and s for which a binomial number of samples below the p90 falls
  between them with 95 %. It holds for independent samples, and is too narrow where disturbances come in bursts;
- from the p90s of the rounds, which do include bursts: Student's t on their logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, lgamma, log, sqrt
from statistics import NormalDist, fmean, stdev

from elasticvit.errors import PredictorError
from elasticvit.latency.normalise import percentile

QUANTILE = 0.9
COVERAGE = 0.95
# With fewer samples, no order statistic is an upper bound: the largest of n is above the p90 with 1 - 0.9^n, which has
# to be 97.5 %.
FEWEST_SAMPLES = 36
# With fewer rounds, their spread is not known.
FEWEST_ROUNDS = 3
# Half the width of the interval, relative to the p90. Sessions of one file on a quiet machine are 5 to 15 % apart.
LARGEST_HALF_WIDTH = 0.15
# How far the p90 may be above the p50, of the model and of the anchor. Undisturbed it is 5 to 35 %: a network does the
# same work every time, so a longer tail is something else that the device did.
LARGEST_TAIL = 0.5


@dataclass(frozen=True, slots=True)
class Tail:
    """The interval of the p90 in ms of the clock, None without enough samples or rounds; `reason` says why the p90
    cannot be relied on, "" if it can."""

    lower_ms: float | None
    upper_ms: float | None
    reason: str


def judge_p90(model_ns: Sequence[Sequence[int]], anchor_ns: Sequence[Sequence[int]]) -> Tail:
    """The p90 of a model from its samples in ns, one sequence for each round, and those of the anchor, which may be
    none. Raises PredictorError without samples."""
    samples = [sample for samples_ns in model_ns for sample in samples_ns]
    if len(samples) < FEWEST_SAMPLES:
        return Tail(None, None, f"a p90 needs {FEWEST_SAMPLES} samples, there are {len(samples)}")
    if len(model_ns) < FEWEST_ROUNDS:
        return Tail(None, None, f"the spread of a p90 needs {FEWEST_ROUNDS} rounds, there are {len(model_ns)}")
    p90_ns = percentile(samples, 100 * QUANTILE)
    pooled, by_round = _order_interval(samples), _round_interval(model_ns)
    lower_ns, upper_ns = min(p90_ns, pooled[0], by_round[0]), max(p90_ns, pooled[1], by_round[1])
    half_width = (upper_ns - lower_ns) / 2 / p90_ns
    reasons = []
    if half_width > LARGEST_HALF_WIDTH:
        reasons.append(f"the p90 is known to ±{half_width:.0%} (at most ±{LARGEST_HALF_WIDTH:.0%})")
    anchors = [sample for samples_ns in anchor_ns for sample in samples_ns]
    for what, measured in (("model", samples), ("anchor", anchors)):
        tail = percentile(measured, 100 * QUANTILE) / percentile(measured, 50) - 1 if measured else 0.0
        if tail > LARGEST_TAIL:
            reasons.append(
                f"the p90 of the {what} is {tail:.0%} above its p50 (at most {LARGEST_TAIL:.0%}): the device did other "
                "things"
            )
    return Tail(lower_ns / 1e6, upper_ns / 1e6, "; ".join(reasons))


def _order_interval(samples: Sequence[int]) -> tuple[float, float]:
    ordered = sorted(samples)
    lower, upper = _ranks(len(ordered))
    return ordered[lower - 1], ordered[upper - 1]


def _ranks(n: int) -> tuple[int, int]:
    """The ranks, from 1 to n, of the order statistics between which the quantile lies with `COVERAGE`.

    Raises PredictorError for fewer than `FEWEST_SAMPLES`.
    """
    if n < FEWEST_SAMPLES:
        raise PredictorError(f"a p90 needs {FEWEST_SAMPLES} samples, got {n}")
    # P(X_(r) > quantile) is that of fewer than r samples below it: a binomial distribution.
    beyond = (1 - COVERAGE) / 2
    deviation = sqrt(n * QUANTILE * (1 - QUANTILE))
    first = max(0, int(n * QUANTILE - 10 * deviation))  # what is below has no weight that matters
    below, lower, upper = 0.0, 1, n
    for count in range(first, n):
        below += _binomial(n, count)
        if below <= beyond:
            lower = count + 1
        if below >= 1 - beyond:
            upper = count + 1
            break
    return lower, upper


def _binomial(n: int, count: int) -> float:
    """The probability that `count` of n samples are below the quantile."""
    choices = lgamma(n + 1) - lgamma(count + 1) - lgamma(n - count + 1)
    return exp(choices + count * log(QUANTILE) + (n - count) * log(1 - QUANTILE))


def _round_interval(rounds: Sequence[Sequence[int]]) -> tuple[float, float]:
    p90s = [log(percentile(samples, 100 * QUANTILE)) for samples in rounds]
    half_width = _student(len(p90s) - 1) * stdev(p90s) / sqrt(len(p90s))
    middle = fmean(p90s)
    return exp(middle - half_width), exp(middle + half_width)


def _student(freedom: int) -> float:
    """Student's t quantile of `COVERAGE`, two-sided: the expansion 26.7.5 of Abramowitz and Stegun, within 4 % for two
    degrees of freedom and 0.3 % for four."""
    z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + fsum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))

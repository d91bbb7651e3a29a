"""Bounds that every answer keeps: a latency budget, MACs, bytes; several latencies for several devices."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.space import Codes
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import InfeasibleError
from elasticvit.latency.calibration import Statistic
from elasticvit.latency.predictor import LatencyPredictor

Values = NDArray[np.float64]
OfCodes = Callable[[Codes], Values]


@dataclass(frozen=True)
class Limit:
    """A cost that may be `at_most` so much.

    Attributes:
        name: what users call it.
        cost: of codes (n, D), shape (n,).
        smallest: a code (D,) with the smallest cost in the space, exact; search starts from it.
    """

    name: str
    cost: OfCodes
    at_most: float
    smallest: Codes

    @property
    def smallest_cost(self) -> float:
        return float(self.cost(self.smallest[None])[0])


class LimitError(InfeasibleError):
    """No subnet keeps the limits. `binding` names the limit that none keeps, or all that none keeps together."""

    def __init__(self, message: str, smallest_ms: float, binding: str) -> None:
        super().__init__(message, smallest_ms)
        self.binding = binding


def latency_limit(
    predictor: LatencyPredictor,
    budget_ms: float,
    confidence: float,
    statistic: Statistic = "p50",
    name: str = "latency",
) -> Limit:
    """The upper bound of the latency interval held to a budget, milliseconds. Raises `PredictorError`."""
    _, code = predictor.smallest_upper_ms(confidence, statistic)
    return Limit(name, lambda codes: predictor.upper_ms(codes, confidence, statistic), budget_ms, code)


def table_limit(name: str, table: CostTable, at_most: float) -> Limit:
    """An additive cost, such as MACs or parameters, held to a bound."""
    return Limit(name, table.total, at_most, table.smallest()[1])


def reachable_range(
    predictor: LatencyPredictor, confidence: float, statistic: Statistic = "p50"
) -> tuple[float, float]:
    """The smallest and the largest upper bound in the space, milliseconds, both exact: which budgets make sense.
    Raises `PredictorError`."""
    return (
        predictor.smallest_upper_ms(confidence, statistic)[0],
        predictor.largest_upper_ms(confidence, statistic)[0],
    )


def check_each(limits: Sequence[Limit]) -> None:
    """Raise `LimitError` if a limit cannot be kept even alone; at once, since the smallest costs are exact."""
    for limit in limits:
        smallest = limit.smallest_cost
        # Written so that a NaN budget is infeasible, too.
        if not smallest <= limit.at_most:
            raise LimitError(
                f"no subnet of this space keeps {limit.name} at most {limit.at_most:g}: the smallest reachable is"
                f" {smallest:.4g}; raise it to at least that",
                limits[0].smallest_cost,
                limit.name,
            )


def excess(limits: Sequence[Limit], costs: Sequence[Values]) -> Values:
    """How far codes are beyond their limits, in parts of them, summed; 0 where all are kept. Shape (n,)."""
    parts = [
        np.where(cost <= limit.at_most, 0.0, cost / max(limit.at_most, 1e-300) - 1 + 1e-12)
        for limit, cost in zip(limits, costs, strict=True)
    ]
    return np.asarray(np.sum(parts, axis=0), np.float64)

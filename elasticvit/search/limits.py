"""Hard limits of a search: latency budgets (one per device), MACs, bytes."""

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
CostOfCodes = Callable[[Codes], Values]


@dataclass(frozen=True)
class Limit:
    """An upper bound of a cost.

    Attributes:
        name: the name of the cost in messages.
        cost: of codes (n, D), shape (n,).
        smallest: a code (D,) with the exact smallest cost in the space; search starts from it.
    """

    name: str
    cost: CostOfCodes
    at_most: float
    smallest: Codes

    @property
    def smallest_cost(self) -> float:
        return float(self.cost(self.smallest[None])[0])


class LimitError(InfeasibleError):
    """No sub-network is within the limits. `binding` names the limit that none keeps, or those none keeps together."""

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
    """A budget in milliseconds for the upper bound of the latency interval. Raises `PredictorError`."""
    _, code = predictor.smallest_upper_ms(confidence, statistic)
    return Limit(name, lambda codes: predictor.upper_ms(codes, confidence, statistic), budget_ms, code)


def table_limit(name: str, table: CostTable, at_most: float) -> Limit:
    """A limit on an additive cost, such as MACs or parameters."""
    return Limit(name, table.total, at_most, table.smallest()[1])


def reachable_range(
    predictor: LatencyPredictor, confidence: float, statistic: Statistic = "p50"
) -> tuple[float, float]:
    """The exact smallest and largest upper bound in the space, milliseconds: the range of useful budgets.

    Raises:
        PredictorError: the confidence or statistic is not valid.
    """
    return (
        predictor.smallest_upper_ms(confidence, statistic)[0],
        predictor.largest_upper_ms(confidence, statistic)[0],
    )


def check_limits(limits: Sequence[Limit]) -> None:
    """Raise `LimitError` for a limit that no member is within; smallest costs are exact, so this needs no search."""
    for limit in limits:
        smallest = limit.smallest_cost
        # Written so that a NaN budget is infeasible.
        if not smallest <= limit.at_most:
            raise LimitError(
                f"no sub-network of this space keeps {limit.name} at most {limit.at_most:g}: the smallest reachable is"
                f" {smallest:.4g}; raise it to at least that",
                limits[0].smallest_cost,
                limit.name,
            )


def excess(limits: Sequence[Limit], costs: Sequence[Values]) -> Values:
    """The relative excesses over all limits, summed; 0 for codes that are within all of them. Shape (n,)."""
    excesses = [
        np.where(cost <= limit.at_most, 0.0, cost / max(limit.at_most, 1e-300) - 1 + 1e-12)
        for limit, cost in zip(limits, costs, strict=True)
    ]
    return np.asarray(np.sum(excesses, axis=0), np.float64)

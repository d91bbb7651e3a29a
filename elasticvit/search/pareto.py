"""The Pareto front of (cost, value) pairs."""

import numpy as np
from numpy.typing import NDArray


def pareto_front(cost: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the pairs that no other pair dominates, by rising cost.

    A pair dominates another if its cost is not higher and its value not lower, and they differ. Of equal pairs the
    first is kept. Pairs with a NaN are never on the front.

    Args:
        cost, value: shapes (n,); lower cost and higher value are better.
    """
    order = np.lexsort((np.arange(len(cost)), -value, cost))
    order = order[~(np.isnan(cost) | np.isnan(value))[order]]
    if not len(order):
        return order
    best = np.maximum.accumulate(value[order])
    # By rising cost, a pair is on the front exactly if its value is higher than all before it.
    rises = np.concatenate([[True], best[1:] > best[:-1]])
    return np.asarray(order[rises], np.int64)

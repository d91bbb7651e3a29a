"""Which of many (cost, value) pairs no other pair beats."""

import numpy as np
from numpy.typing import NDArray


def pareto_front(cost: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the pairs that no other beats, by rising cost.

    A pair beats another if it costs no more and is worth no less, and differs. Of equal pairs the first is kept. Pairs
    with a NaN never belong.

    Args:
        cost, value: shapes (n,); low cost and high value are wanted.
    """
    order = np.lexsort((np.arange(len(cost)), -value, cost))
    order = order[~(np.isnan(cost) | np.isnan(value))[order]]
    if not len(order):
        return order
    best = np.maximum.accumulate(value[order])
    # By rising cost, a pair is on the front exactly if it is worth more than everything before it.
    rises = np.concatenate([[True], best[1:] > best[:-1]])
    return np.asarray(order[rises], np.int64)

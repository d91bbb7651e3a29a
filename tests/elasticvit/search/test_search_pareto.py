"""The frontier against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elasticvit.search.pareto import pareto_front

# Few distinct values, so that ties are common.
VALUES = st.one_of(st.integers(0, 4).map(float), st.just(float("nan")))


@pytest.mark.medium
@given(st.lists(st.tuples(VALUES, VALUES), max_size=12))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[float, float]]) -> None:
    cost = np.array([pair[0] for pair in pairs], np.float64)
    value = np.array([pair[1] for pair in pairs], np.float64)

    def beaten(i: int) -> bool:
        no_worse = [j for j in range(len(pairs)) if cost[j] <= cost[i] and value[j] >= value[i]]
        return any((cost[j], value[j]) != (cost[i], value[i]) or j < i for j in no_worse)

    real = [i for i in range(len(pairs)) if not np.isnan([cost[i], value[i]]).any()]
    expected = sorted((i for i in real if not beaten(i)), key=lambda i: cost[i])
    assert pareto_front(cost, value).tolist() == expected


def test_no_pairs_no_front() -> None:
    assert pareto_front(np.zeros(0), np.zeros(0)).tolist() == []

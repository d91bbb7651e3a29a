import math

import pytest

from elasticvit.training.ablation.statistics import mean_of, paired, rank_correlation
from elasticvit.training.ablation.table import shown


def test_an_interval_is_students() -> None:
    mean = mean_of([1.0, 2.0, 3.0])
    # Standard deviation 1, and 4.3027 is the 97.5 % point of Student's distribution with 2 degrees of freedom.
    assert (mean.value, mean.n) == (2.0, 3)
    assert mean.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert mean_of([1.0, 2.0, 3.0], 0.9).half == pytest.approx(2.919986 / math.sqrt(3), abs=1e-5)


def test_one_value_has_no_spread() -> None:
    assert mean_of([5.0]).half == math.inf
    with pytest.raises(ValueError, match="values"):
        mean_of([])


def test_pairing_takes_out_what_a_seed_does_to_both() -> None:
    difference = paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert difference.value == 2.0
    assert difference.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert difference.clear is False
    assert paired([11.0, 21.1, 31.0], [10.0, 20.0, 30.0]).clear is True


def test_ranks_correlate() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 Σ d² / (n (n² - 1)) with d = 0, 1, -1, 0
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_numbers_are_shown_with_their_interval() -> None:
    assert shown(mean_of([1.0, 2.0, 3.0])) == "2.0 ± 2.5"
    assert shown(mean_of([-1.5]), sign=True) == "−1.5"
    assert shown(mean_of([0.25, 0.25]), digits=2, sign=True) == "+0.25 ± 0.00"

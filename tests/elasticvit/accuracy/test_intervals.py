"""Intervals against published values, and how often they hold."""

import numpy as np
import pytest

from elasticvit.accuracy.intervals import newcombe_paired, wilson


@pytest.mark.parametrize(
    ("right", "n", "lower", "upper"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_proportion(right: int, n: int, lower: float, upper: float) -> None:
    assert wilson(right / n, n) == pytest.approx((lower, upper), abs=5e-5)
    mirrored = wilson(1 - right / n, n)
    assert mirrored == pytest.approx((1 - upper, 1 - lower), abs=5e-5)


def test_the_interval_of_a_proportion_holds_it() -> None:
    for n in (1, 7, 60, 10_000):
        for right in (0, n // 2, n):
            lower, upper = wilson(right / n, n)
            assert 0 <= lower <= right / n <= upper <= 1 and lower < upper


@pytest.mark.parametrize(("proportion", "n"), [(0.5, 0), (1.2, 10), (-0.1, 10), (float("nan"), 10)])
def test_what_is_no_proportion_is_refused(proportion: float, n: int) -> None:
    with pytest.raises(ValueError, match="a proportion from 0 to 1"):
        wilson(proportion, n)


def test_the_interval_of_a_paired_difference() -> None:
    """Altman and others, Statistics with confidence, 2000, table 6.2: 14 both, 5 and 0 one, 22 neither."""
    lower, upper = newcombe_paired(14, 5, 0, 22)
    assert (-upper, -lower) == pytest.approx((0.0115, 0.2260), abs=5e-4)
    assert newcombe_paired(14, 0, 5, 22) == pytest.approx((-upper, -lower)), "the other way round, the other sign"


def test_no_disagreement_is_no_certainty() -> None:
    lower, upper = newcombe_paired(1600, 0, 0, 400)
    assert lower < 0 < upper and upper - lower < 0.01
    assert newcombe_paired(10, 0, 0, 0)[1] > 0


def test_the_intervals_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    # Both right, only the first, only the second, neither.
    chances = np.array([0.75, 0.04, 0.02, 0.19])
    counts = rng.multinomial(300, chances, size=2000)
    pairs = [newcombe_paired(*map(int, row)) for row in counts]
    single = [wilson((row[0] + row[1]) / 300, 300) for row in counts]
    for intervals, truth in ((pairs, chances[2] - chances[1]), (single, chances[0] + chances[1])):
        held = np.mean([lower <= truth <= upper for lower, upper in intervals])
        assert held == pytest.approx(0.95, abs=0.02)

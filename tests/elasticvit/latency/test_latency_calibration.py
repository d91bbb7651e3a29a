"""Calibration on whole networks: what the intervals promise is what they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticvit.errors import PredictorError
from elasticvit.latency.calibration import Calibration, Line, fit_calibration, mean_error, within

SUMS = np.geomspace(1, 8, 16)
DRAWS = 250


def _draw(rng: np.random.Generator, n: int, noise: float) -> tuple[Calibration, float, float]:
    """A calibration on n networks, and sum and time of one more."""
    sums = np.exp(rng.uniform(0, 2, n + 1))
    times = 1.3 * sums * np.exp(rng.normal(0, noise, n + 1))
    return fit_calibration(sums[:-1], times[:-1]), float(sums[-1]), float(times[-1])


@pytest.mark.medium
@pytest.mark.parametrize(("n", "confidence"), [(16, 0.5), (16, 0.8), (16, 0.9), (25, 0.9), (8, 0.9), (10, 0.95)])
def test_intervals_cover_as_often_as_they_say(n: int, confidence: float) -> None:
    """Within what 250 draws may stray by at the 99.9 % level."""
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(DRAWS):
        calibration, total, truth = _draw(rng, n, 0.05)
        middle = calibration.predict(np.array([total]))[0]
        factor = calibration.factor(confidence)
        covered += bool(middle / factor <= truth <= middle * factor)
    stray = 3.3 * np.sqrt(confidence * (1 - confidence) / DRAWS)
    # The rank is rounded up, so n networks exceed the coverage by at most one rank in n + 1, and Student's t is wide.
    assert confidence - stray <= covered / DRAWS <= confidence + 1 / (n + 1) + stray + 0.03


def test_more_confidence_is_never_narrower() -> None:
    calibration, _, _ = _draw(np.random.default_rng(1), 16, 0.05)
    factors = [calibration.factor(confidence) for confidence in np.linspace(0.5, 0.99, 50)]
    assert factors == sorted(factors)
    assert factors[0] > 1 and factors[-1] > factors[0]


def test_the_interval_method_depends_on_the_number_of_networks() -> None:
    rng = np.random.default_rng(2)
    few, many = _draw(rng, 8, 0.05)[0], _draw(rng, 99, 0.05)[0]
    assert (few.method(0.8), few.method(0.9), many.method(0.99)) == ("conformal", "student-t", "conformal")
    assert Calibration(Line(0.0), spread=0.5).method(0.5) == "assumed"
    # Nine residuals and one to come: the 90 % bound is the largest of them, exactly.
    nine = Calibration(Line(0.0), tuple(np.linspace(-0.3, 0.2, 9)))
    assert nine.method(0.9) == "conformal"
    assert nine.factor(0.9) == pytest.approx(np.exp(0.3))
    assert nine.factor(0.95) > nine.factor(0.9)


def test_residuals_are_of_networks_that_the_ratio_did_not_see() -> None:
    """One network twice as slow: the others' ratio is 1 with or without it, and its residual is all of log 2."""
    times = SUMS.copy()
    times[3] *= 2
    calibration = fit_calibration(SUMS, times)
    assert calibration.line == Line(0.0, 1.0)
    assert calibration.residuals[-1] == pytest.approx(np.log(2))
    assert within(calibration.residuals) == pytest.approx(15 / 16)
    assert mean_error(calibration.residuals) == pytest.approx(0.5 / 16)


@pytest.mark.medium
@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.integers(8, 40))
def test_a_ratio_is_found_exactly(ratio: float, n: int) -> None:
    sums = np.geomspace(1, 5, n)
    calibration = fit_calibration(sums, ratio * sums)
    assert calibration.predict(np.array([2.0]))[0] == pytest.approx(2 * ratio)
    assert calibration.factor(0.5) == pytest.approx(1.0)


def test_a_slope_is_used_only_where_there_is_evidence_for_it() -> None:
    bent = SUMS**1.1
    assert fit_calibration(SUMS, bent).line.slope == pytest.approx(1.1)
    assert fit_calibration(SUMS[:10], bent[:10]).line.slope == 1.0
    noisy = SUMS * np.exp(np.random.default_rng(5).normal(0, 0.1, 16))
    assert fit_calibration(SUMS, noisy).line.slope == 1.0
    assert fit_calibration(SUMS, SUMS**3).line.slope == 1.15


@pytest.mark.parametrize("confidence", [0.0, 0.49, 0.991, 1.0, float("nan")])
def test_confidences_out_of_range_are_refused(confidence: float) -> None:
    with pytest.raises(PredictorError, match="confidence"):
        fit_calibration(SUMS, SUMS).factor(confidence)

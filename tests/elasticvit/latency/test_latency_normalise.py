"""Percentiles, the anchor's speed, and which sessions are believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elasticvit.errors import PredictorError
from elasticvit.latency.normalise import p50_ms, p90_ms, percentile, stability


@pytest.mark.medium
@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=60), st.floats(0, 100))
def test_percentiles_are_numpys(samples: list[int], percent: float) -> None:
    assert percentile(samples, percent) == pytest.approx(float(np.percentile(samples, percent)), rel=1e-12)


def test_units() -> None:
    assert p50_ms([1_000_000, 3_000_000, 2_000_000]) == 2.0
    assert p90_ms([10**6] * 9 + [2 * 10**6]) == pytest.approx(1.1)


def test_a_steady_session_is_stable_whatever_the_machine_does_to_both() -> None:
    speeds = [1.0, 1.05, 1.1, 1.3, 1.15]
    result = stability([4 * s for s in speeds], speeds)
    assert result.stable and result.cv == pytest.approx(0) and result.drift == pytest.approx(0.15)


def test_what_is_not_stable() -> None:
    assert "varies" in stability([4, 6, 6, 4, 4], [1, 1, 1, 1, 1]).reason
    assert "varies" in stability([4, 4, 6, 4], [1, 1, 1, 1]).reason
    assert "drifted" in stability([4, 4, 4, 5.2, 5.2], [1, 1, 1, 1.3, 1.3]).reason
    drifting = stability([4, 5.2], [1, 1.3])
    assert not drifting.stable and "drifted by 30%" in drifting.reason
    assert stability([4], [1]).stable


def test_one_disturbed_round_of_five_is_forgiven() -> None:
    assert stability([4, 4, 6, 4, 4], [1, 1, 1, 1, 1]) == stability([4, 4, 4, 4], [1, 1, 1, 1])
    assert stability([4, 4, 8, 4, 4], [1, 1, 2, 1, 1]).drift == 0


def test_sessions_whose_stability_is_undefined_are_refused() -> None:
    for model, anchor in (([], []), ([1.0], [1.0, 2.0]), ([1.0, 0.0], [1.0, 1.0])):
        with pytest.raises(PredictorError):
            stability(model, anchor)
    with pytest.raises(PredictorError, match="no samples"):
        p50_ms([])

"""The 90th percentile of a session: its interval covers the true one, and disturbed sessions are not relied on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from elasticvit.errors import PredictorError
from elasticvit.latency import tail
from elasticvit.latency.tail import FEWEST_SAMPLES, judge_p90

Rounds = list[list[int]]


def calm(rng: np.random.Generator, ms: float = 1.4, rounds: int = 5, runs: int = 200) -> Rounds:
    """Samples in ns with a spread of 3 %."""
    return [[round(ns) for ns in ms * 1e6 * rng.lognormal(0.0, 0.03, runs)] for _ in range(rounds)]


def loaded(rng: np.random.Generator, ms: float = 1.4, part: float = 0.15) -> Rounds:
    """The same, but another process has the CPU for 4 ms during a part of the inferences."""
    return [[ns + 4_000_000 * int(rng.random() < part) for ns in samples] for samples in calm(rng, ms)]


@pytest.mark.parametrize("n", [36, 37, 55, 365, 3947, 25_000])
def test_the_ranks_are_those_of_the_binomial_distribution(n: int) -> None:
    lower, upper = tail._ranks(n)
    below = stats.binom(n, 0.9)
    covered = below.cdf(upper - 1) - below.cdf(lower - 1)
    assert covered >= 0.95
    assert below.cdf(lower) > 0.025, "a higher rank would be above the p90 too often"
    assert below.cdf(upper - 2) < 0.975, "a lower one below it"


def test_so_many_samples_are_needed_for_an_upper_bound() -> None:
    assert 1 - 0.9**FEWEST_SAMPLES >= 0.975 > 1 - 0.9 ** (FEWEST_SAMPLES - 1)
    with pytest.raises(PredictorError):
        tail._ranks(FEWEST_SAMPLES - 1)
    few = judge_p90([[1_000_000 + i for i in range(7)]] * 5, [])
    assert few.lower_ms is None and few.upper_ms is None and "36 samples" in few.reason
    assert "3 rounds" in judge_p90([[1_000_000 + i for i in range(50)]] * 2, []).reason


@pytest.mark.parametrize("freedom", [2, 3, 4, 9, 49])
def test_students_t_is_close_to_the_exact_one(freedom: int) -> None:
    assert tail._student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.04 if freedom < 4 else 0.005)


def test_a_calm_session_has_a_stable_p90_within_its_interval() -> None:
    rng = np.random.default_rng(0)
    true_ms = 1.4 * math.exp(0.03 * 1.2816)
    inside = 0
    for _ in range(100):
        judged = judge_p90(calm(rng), calm(rng, 0.5))
        assert judged.reason == "" and judged.lower_ms is not None and judged.upper_ms is not None
        assert judged.upper_ms - judged.lower_ms < 0.1 * true_ms
        inside += judged.lower_ms <= true_ms <= judged.upper_ms
    assert inside >= 93


def test_a_session_under_load_has_no_stable_p90_although_its_p50_is_the_same() -> None:
    rng = np.random.default_rng(1)
    rounds = loaded(rng)
    pooled = [ns for samples in rounds for ns in samples]
    assert np.median(pooled) == pytest.approx(1.4e6, rel=0.05)
    assert np.percentile(pooled, 90) > 5e6
    assert "above its p50" in judge_p90(rounds, calm(rng, 0.5)).reason


def test_an_anchor_under_load_says_that_the_device_was_busy() -> None:
    rng = np.random.default_rng(2)
    assert "of the anchor" in judge_p90(calm(rng), loaded(rng, 0.5)).reason


def test_rounds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    rounds = [calm(rng, 1.4 * factor, rounds=1)[0] for factor in (1.0, 1.02, 1.4, 0.98, 1.3)]
    judged = judge_p90(rounds, calm(rng, 0.5))
    assert "±" in judged.reason and judged.lower_ms is not None and judged.upper_ms is not None
    assert judged.upper_ms / judged.lower_ms > 1.4

"""Search: limits that hold, answers that are best, and refusals that say what is possible."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from elasticvit.archs.space import PRESETS, Codes, ConvChoices, Space, VitChoices
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import block_params
from elasticvit.errors import InfeasibleError, PredictorError, SearchError
from elasticvit.latency.predictor import LatencyPredictor, uncalibrated
from elasticvit.search.evolution import Frontier, evolve
from elasticvit.search.limits import Limit, LimitError, latency_limit, reachable_range, table_limit

Accuracy = Callable[[Codes], NDArray[np.float64]]
SMALL = PRESETS["small"]()
TINY = Space(
    name="tiny",
    resolutions=(32, 64),
    stem=ConvChoices((8,), (1,), (3,), (1,)),
    conv=(ConvChoices((8, 16), (2, 3), (3,), (3,)), ConvChoices((16,), (2,), (3, 5), (3, 6))),
    vit=(
        VitChoices((32, 48), (1, 2), (2,), (2,)),
        VitChoices((48, 64), (1,), (2, 4), (2,)),
        VitChoices((80,), (1, 2), (2,), (2, 5)),
        VitChoices((96, 112), (1,), (2,), (2,)),
    ),
    hidden=64,
    classes=10,
)


@cache
def _predictor(name: str) -> LatencyPredictor:
    return uncalibrated({"tiny": TINY, **{n: make() for n, make in PRESETS.items()}}[name])


def _accuracy(space: Space, seed: int = 5) -> Accuracy:
    """Grows with every choice, by amounts that have nothing to do with what it costs."""
    rng = np.random.default_rng(seed)
    worth = [np.cumsum(rng.random(size) * rng.random()) for size in space.sizes]
    return lambda codes: np.asarray(1 - np.exp(-0.1 * sum(w[codes[:, at]] for at, w in enumerate(worth))), np.float64)


def _search(name: str, fraction: float, seed: int = 0, count: int = 1) -> tuple[Frontier, float]:
    predictor = _predictor(name)
    smallest, largest = reachable_range(predictor, 0.9)
    budget_ms = smallest * (largest / smallest) ** fraction
    limit = latency_limit(predictor, budget_ms, 0.9)
    rng = np.random.default_rng(seed)
    return evolve(predictor.space, _accuracy(predictor.space), [limit], rng, count), budget_ms


def _everyone(space: Space) -> Codes:
    grids = np.meshgrid(*(np.arange(size) for size in space.sizes), indexing="ij")
    codes = np.stack([grid.ravel() for grid in grids], axis=1).astype(np.int8)
    return codes[space.valid(codes)]


@pytest.mark.medium
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.4, 0.7, 1.0])
def test_the_best_of_a_space_small_enough_to_look_at_everyone(fraction: float) -> None:
    result, budget_ms = _search("tiny", fraction, count=3)
    everyone = _everyone(TINY)
    assert len(everyone) == TINY.count()
    upper, accuracy = _predictor("tiny").upper_ms(everyone, 0.9), _accuracy(TINY)(everyone)
    kept = np.flatnonzero(upper <= budget_ms)
    order = kept[np.lexsort((upper[kept], -accuracy[kept]))]
    assert result.best_accuracy.tolist() == accuracy[order[:3]].tolist()
    assert result.best.tolist() == everyone[order[:3]].tolist()


@pytest.mark.medium
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.9])
def test_limits_are_never_broken(name: str, fraction: float) -> None:
    result, budget_ms = _search(name, fraction, count=10)
    predictor = _predictor(name)
    for codes, latency_ms in ((result.best, result.best_latency_ms), (result.codes, result.latency_ms)):
        assert np.all(predictor.space.valid(codes))
        assert latency_ms.tolist() == predictor.upper_ms(codes, 0.9).tolist()
        assert np.all(latency_ms <= budget_ms)


@pytest.mark.medium
def test_answers_are_distinct_and_best_first_and_the_front_rises() -> None:
    result, _ = _search("small", 0.5, count=20)
    assert len({code.tobytes() for code in result.best}) == 20
    assert all(a >= b for a, b in pairwise(result.best_accuracy))
    assert np.all(np.diff(result.latency_ms) > 0) and np.all(np.diff(result.accuracy) > 0)
    assert result.accuracy[-1] == result.best_accuracy[0]
    assert result.best[0].tolist() == result.codes[-1].tolist()


@pytest.mark.medium
def test_no_sample_is_better() -> None:
    result, budget_ms = _search("small", 0.5)
    rng = np.random.default_rng(99)
    codes = SMALL.sample(rng, 50_000)
    codes = np.concatenate([codes, SMALL.mutate(np.repeat(result.best, 20_000, axis=0), rng, 0.1)])
    kept = codes[_predictor("small").upper_ms(codes, 0.9) <= budget_ms]
    assert _accuracy(SMALL)(kept).max() <= result.best_accuracy[0]


@pytest.mark.medium
def test_a_seed_gives_the_same_answer() -> None:
    one, other = (_search("small", 0.4, seed=7, count=5)[0] for _ in range(2))
    assert one.best.tolist() == other.best.tolist() and one.codes.tolist() == other.codes.tolist()


@pytest.mark.medium
def test_a_larger_budget_is_used() -> None:
    """Where accuracy grows with every choice, so do accuracy and latency of the answers with the budget."""
    predictor = _predictor("small")
    smallest, largest = reachable_range(predictor, 0.9)
    answers = [
        evolve(
            SMALL,
            _accuracy(SMALL),
            [latency_limit(predictor, smallest + fraction * (largest - smallest), 0.9)],
            np.random.default_rng(0),
        )
        for fraction in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    assert all(a.best_accuracy[0] < b.best_accuracy[0] for a, b in pairwise(answers))
    assert all(a.best_latency_ms[0] < b.best_latency_ms[0] for a, b in pairwise(answers))


@pytest.mark.medium
@pytest.mark.parametrize("name", ["tiny", *PRESETS])
@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_the_error_for_an_infeasible_budget_has_the_smallest_feasible_one(name: str, confidence: float) -> None:
    predictor = _predictor(name)
    smallest, code = predictor.smallest_upper_ms(confidence)
    accuracy, rng = _accuracy(predictor.space), np.random.default_rng(0)
    with pytest.raises(LimitError, match="smallest reachable") as caught:
        evolve(predictor.space, accuracy, [latency_limit(predictor, smallest * 0.999, confidence)], rng)
    assert isinstance(caught.value, InfeasibleError)
    assert (caught.value.smallest_ms, caught.value.binding) == (smallest, "latency")
    result = evolve(predictor.space, accuracy, [latency_limit(predictor, smallest, confidence)], rng)
    assert result.best.tolist() == [code.tolist()] and result.best_latency_ms.tolist() == [smallest]


@pytest.mark.parametrize("budget", [float("nan"), -1.0, 0.0, -float("inf")])
def test_absurd_budgets_are_infeasible(budget: float) -> None:
    with pytest.raises(InfeasibleError):
        evolve(SMALL, _accuracy(SMALL), [latency_limit(_predictor("small"), budget, 0.9)], np.random.default_rng(0))


@pytest.mark.medium
def test_several_limits_hold_together() -> None:
    predictor = _predictor("small")
    macs = CostTable.of_macs(SMALL)
    params = CostTable.build(SMALL, lambda blocks: np.array([float(block_params(block)) for block in blocks]))
    limits = [
        latency_limit(predictor, 6.0, 0.9),
        table_limit("MACs", macs, 8e6),
        table_limit("parameters", params, 1e6),
    ]
    result = evolve(SMALL, _accuracy(SMALL), limits, np.random.default_rng(0), count=5)
    assert np.all(macs.total(result.best) <= 8e6) and np.all(params.total(result.best) <= 1e6)
    assert np.all(macs.total(result.codes) <= 8e6)
    with pytest.raises(LimitError) as caught:
        evolve(SMALL, _accuracy(SMALL), [limits[0], table_limit("MACs", macs, 1e5)], np.random.default_rng(0))
    assert caught.value.binding == "MACs"
    assert caught.value.smallest_ms == predictor.smallest_upper_ms(0.9)[0]


def test_limits_that_only_exclude_each_other_are_named_together() -> None:
    wide = Limit("width", lambda codes: -codes[:, 25].astype(np.float64), -2.0, (SMALL.sizes - 1).astype(np.int8))
    narrow = Limit("thrift", lambda codes: codes[:, 25].astype(np.float64), 1.0, np.zeros(29, np.int8))
    with pytest.raises(LimitError, match="together") as caught:
        evolve(SMALL, _accuracy(SMALL), [wide, narrow], np.random.default_rng(0), rounds=5)
    assert caught.value.binding == "width and thrift"


def test_searches_that_make_no_sense_are_refused() -> None:
    limit = latency_limit(_predictor("small"), 5.0, 0.9)
    for limits, count in (([], 1), ([limit], 0)):
        with pytest.raises(SearchError):
            evolve(SMALL, _accuracy(SMALL), limits, np.random.default_rng(0), count)
    with pytest.raises(PredictorError, match="confidence"):
        latency_limit(_predictor("small"), 5.0, 0.2)

"""Levels: what they hold, their floors, and the walk between them."""

from dataclasses import replace

import numpy as np
import pytest

from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import PRESETS, WIDTH_AT, paper, small
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import paper_mflops
from elasticvit.training.sampling import (
    PAPER_FLOORS,
    PAPER_LEVELS,
    Bank,
    Preference,
    Sampler,
    Sampling,
    SamplingError,
    paper_sampling,
)
from elasticvit.training.sampling.levels import cost_of, ladder, walk


def test_levels_by_number_hold_equal_shares_of_the_space() -> None:
    space, sampling = small(), Sampling(levels=6)
    costs = cost_of(space, sampling)
    levels = ladder(space, sampling, costs)
    edges = [levels[0].low, *(level.high for level in levels)]
    mmacs = costs.total(space.sample(np.random.default_rng(7), 20_000)) / 1e6
    shares = np.histogram(mmacs, edges)[0] / len(mmacs)
    assert [level.low for level in levels[1:]] == [level.high for level in levels[:-1]]
    assert shares.sum() == 1
    assert np.abs(shares - 1 / 6).max() < 0.02


@pytest.mark.medium
@pytest.mark.parametrize("name", PRESETS)
def test_networks_of_a_step_are_of_its_level(name: str) -> None:
    space = PRESETS[name]()
    sampler, rng = Sampler(space, Sampling(levels=5)), np.random.default_rng(0)
    costs, state = CostTable.of_macs(space), sampler.start()
    seen = set()
    for _ in range(60):
        choice = sampler.step(state, rng)
        codes = np.stack([space.encode(arch) for arch in choice.archs[:-1]])
        level, mmacs = sampler.levels[choice.level], costs.total(codes) / 1e6
        assert (mmacs >= level.low).all() and (mmacs <= level.high).all()
        assert choice.archs[-1] == space.smallest()
        assert choice.roles == ("uniform",) * 3 + ("smallest",)
        seen.add(choice.level)
    assert seen == set(range(5))


@pytest.mark.parametrize(
    ("level", "expected"), [(3, {2: 1, 3: 1, 4: 1}), (0, {0: 2, 1: 1}), (7, {6: 1, 7: 2})], ids=["inside", "low", "top"]
)
def test_the_walk_goes_to_neighbours_with_equal_chance(level: int, expected: dict[int, int]) -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount([walk(level, 8, rng) for _ in range(6000)], minlength=8)
    assert set(counts.nonzero()[0]) == set(expected)
    for to, thirds in expected.items():
        assert counts[to] == pytest.approx(2000 * thirds, rel=0.1)


@pytest.mark.medium
def test_a_long_walk_visits_all_levels_alike() -> None:
    rng, level, visits = np.random.default_rng(1), 0, np.zeros(8)
    for _ in range(60_000):
        level = walk(level, 8, rng)
        visits[level] += 1
    # Visits of a walk come in clusters: some 60,000 / (2 · 19) independent ones.
    assert np.abs(visits / visits.sum() - 1 / 8).max() < 0.03


@pytest.mark.medium
def test_the_state_walks_by_one_level_a_step() -> None:
    sampler = Sampler(small(), Sampling(levels=4, subnets=1))
    state = sampler.start()
    levels = [sampler.step(state, np.random.default_rng(i)).level for i in range(200)]
    assert set(np.diff([0, *levels])) == {-1, 0, 1} and set(levels) == {0, 1, 2, 3}


# Reference: the authors' code picks the first key with target <= key + 20; "closest" is by cost (37, 160, 289).
AUTHORS = {100: 1, 200: 1, 300: 2, 400: 2, 500: 3, 700: 3, 900: 3, 1200: 3}
CLOSEST = {100: 2, 200: 2, 300: 3, 400: 3, 500: 3, 700: 3, 900: 3, 1200: 3}


@pytest.mark.medium
def test_the_floor_of_every_level_by_the_authors_rule() -> None:
    sampler = Sampler(paper(), Sampling(levels=PAPER_LEVELS, floors=PAPER_FLOORS))
    for level in sampler.levels:
        assert level.smallest == level.floor == PUBLISHED[f"min{AUTHORS[round(level.low)]}"]


@pytest.mark.medium
def test_the_floor_of_every_level_by_the_paper_s_word() -> None:
    sampler = Sampler(paper(), Sampling(levels=PAPER_LEVELS, floors=PAPER_FLOORS, floor_rule="closest"))
    for level in sampler.levels:
        assert level.smallest == PUBLISHED[f"min{CLOSEST[round(level.low)]}"] and level.floor is None


@pytest.mark.medium
def test_a_step_of_the_paper_trains_its_band_above_the_floor() -> None:
    space = paper()
    sampler, rng = Sampler(space, Sampling(levels=PAPER_LEVELS, floors=PAPER_FLOORS)), np.random.default_rng(0)
    state = sampler.start()
    bounded = [0, *WIDTH_AT, *(at + 1 for at in WIDTH_AT)]
    for _ in range(60):
        choice = sampler.step(state, rng)
        target, floor = PAPER_LEVELS[choice.level], choice.archs[-1]
        assert choice.roles[-1] == "floor" and floor == PUBLISHED[f"min{AUTHORS[round(target)]}"]
        for arch in choice.archs[:-1]:
            assert target <= paper_mflops(arch) <= target + 20
            assert (space.encode(arch) >= space.encode(floor))[bounded].all()


def test_the_sandwich_has_both_ends_and_any_size_between() -> None:
    space = small()
    sampler, rng = Sampler(space, Sampling(strategy="sandwich", subnets=2)), np.random.default_rng(0)
    state, costs = sampler.start(), CostTable.of_macs(space)
    sampled = []
    for _ in range(300):
        choice = sampler.step(state, rng)
        assert choice.roles == ("largest", "uniform", "uniform", "smallest")
        assert (choice.archs[0], choice.archs[-1]) == (space.largest(), space.smallest())
        sampled += [space.encode(arch) for arch in choice.archs[1:-1]]
    plain = costs.total(space.sample(np.random.default_rng(1), 5000))
    below = (costs.total(np.stack(sampled)) < np.median(plain)).mean()
    assert below == pytest.approx(0.5, abs=0.08)


def test_the_largest_is_included_only_on_request() -> None:
    rng = np.random.default_rng(0)
    sampler = Sampler(small(), Sampling(include=("largest", "smallest")))
    assert sampler.step(sampler.start(), rng).roles == ("largest", "uniform", "uniform", "uniform", "smallest")
    sampler = Sampler(small(), Sampling(include=()))
    assert sampler.step(sampler.start(), rng).roles == ("uniform",) * 3


def test_fixed_networks_stay() -> None:
    archs = (small().largest(), small().smallest())
    sampler = Sampler(small(), Sampling(strategy="fixed", archs=archs))
    assert sampler.step(sampler.start(), np.random.default_rng(0)).archs == archs


@pytest.mark.medium
def test_the_same_numbers_give_the_same_step_whatever_came_before() -> None:
    sampler = Sampler(small(), Sampling())
    state = sampler.start()
    for i in range(5):
        sampler.step(state, np.random.default_rng(i))
    again = replace(state)
    first = sampler.step(state, np.random.default_rng(9))
    assert Sampler(small(), Sampling()).step(again, np.random.default_rng(9)) == first


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "sandwich", "bank": Bank()},
        {"strategy": "fixed"},
        {"archs": (small().smallest(),)},
        {"preference": Preference()},
        {"subnets": 0},
        {"levels": 0},
        {"levels": (200.0, 100.0)},
        {"levels": (100.0,), "band": 0.0},
        {"floors": PAPER_FLOORS[::-1]},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SamplingError):
        Sampling(**settings)  # type: ignore[arg-type]


def test_levels_and_floors_that_a_space_lacks_are_refused() -> None:
    with pytest.raises(SamplingError, match="holds no networks"):
        Sampler(small(), Sampling(levels=(1e6,)))
    with pytest.raises(SamplingError, match="floor of key 200 is not in space 'small'"):
        Sampler(small(), replace(paper_sampling(), levels=(10.0,), band=5.0))

"""Adjacent-step sampling: bands, the walk over levels, and what a step trains."""

import numpy as np
import pytest

from elasticvit.costs import CostTable
from elasticvit.errors import DataError, SpaceError
from elasticvit.space import PRESETS, small
from elasticvit.training.prepare import spread
from elasticvit.training.samplers import AdjacentStep


@pytest.fixture(scope="module")
def sampler() -> AdjacentStep:
    return AdjacentStep.over(small(), levels=6, subnets=3)


def test_levels_hold_equal_shares_of_the_space(sampler: AdjacentStep) -> None:
    macs = sampler.costs.total(small().sample(np.random.default_rng(7), 20_000))
    shares = np.histogram(macs, sampler.edges)[0] / len(macs)
    assert shares.sum() == 1
    assert np.abs(shares - 1 / 6).max() < 0.02


@pytest.mark.parametrize("name", PRESETS)
def test_drawn_networks_are_members_of_their_level(name: str) -> None:
    space = PRESETS[name]()
    sampler, rng = AdjacentStep.over(space, levels=5, subnets=3), np.random.default_rng(0)
    for level in range(sampler.levels):
        codes = sampler.in_band(level, rng, 300)
        macs = sampler.costs.total(codes)
        assert space.valid(codes).all()
        assert macs.min() >= sampler.edges[level] and macs.max() <= sampler.edges[level + 1]


def test_the_walk_goes_to_neighbours_with_equal_chance(sampler: AdjacentStep) -> None:
    rng = np.random.default_rng(0)
    for level, expected in ((3, {2: 1, 3: 1, 4: 1}), (0, {0: 2, 1: 1}), (5, {4: 1, 5: 2})):
        found = np.bincount([sampler.walk(level, rng) for _ in range(6000)], minlength=6)
        assert set(found.nonzero()[0]) == set(expected)
        for to, thirds in expected.items():
            assert found[to] == pytest.approx(2000 * thirds, rel=0.1)


def test_a_long_walk_visits_all_levels_alike(sampler: AdjacentStep) -> None:
    rng, level, visits = np.random.default_rng(1), 0, np.zeros(6)
    for _ in range(30_000):
        level = sampler.walk(level, rng)
        visits[level] += 1
    assert np.abs(visits / visits.sum() - 1 / 6).max() < 0.03


def test_a_step_trains_networks_of_one_level_and_the_smallest_last(sampler: AdjacentStep) -> None:
    *others, smallest = sampler.choose(4, np.random.default_rng(0))
    assert smallest == small().smallest()
    macs = sampler.costs.total(np.stack([small().encode(arch) for arch in others]))
    assert len(others) == 3 and len(set(others)) == 3
    assert ((macs >= sampler.edges[4]) & (macs <= sampler.edges[5])).all()
    assert sampler.choose(4, np.random.default_rng(0)) == (*others, smallest)


def test_a_level_without_networks_is_refused() -> None:
    sampler = AdjacentStep(small(), CostTable.of_macs(small()), (1e12, 2e12), subnets=1)
    with pytest.raises(SpaceError, match="hardly any networks of 1000000"):
        sampler.in_band(0, np.random.default_rng(0), 1)


def test_networks_to_evaluate_spread_over_all_sizes() -> None:
    space = small()
    codes = spread(space, 40)
    macs = CostTable.of_macs(space).total(codes)
    assert (space.decode(codes[0]), space.decode(codes[-1])) == (space.smallest(), space.largest())
    assert len(np.unique(codes, axis=0)) == 40 and (np.diff(macs) >= 0).all()
    assert np.array_equal(codes, spread(space, 40))
    with pytest.raises(DataError):
        spread(space, 1)

"""The direct sampler against trial and error, and against exact probabilities where every member can be listed.

Distributions are compared by chi-square tests. Seeds are fixed, so a test always says the same; each would fail by
chance for one seed in a thousand, and one test shows that a wrong distribution is noticed.
"""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import PRESETS, WIDTH_AT, Codes, Space, paper, small
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import macs, paper_mflops
from elasticvit.errors import SpaceError
from tests.elasticvit.tiny_spaces import few_space

ALPHA = 1e-3
COMMON = 10  # draws that a cell must have for the chi-square approximation to hold


def trial_and_error(space: Space, cost: CostTable, low: float, high: float, draws: int, floor: Arch | None) -> Codes:
    """What `Space.sample` draws, restricted to the floor as the authors do it, kept when its cost is in the band."""
    rng, sizes = np.random.default_rng(2), space.sizes
    lows = space.encode(floor) if floor else np.zeros(len(sizes), np.int8)
    bounded = np.array([name.endswith(("resolution", "depth")) for name, _ in space.dimensions])
    kept = []
    for _ in range(draws // 100_000):
        codes = rng.integers(np.where(bounded, lows, 0), sizes, size=(100_000, len(sizes))).astype(np.int8)
        least = np.zeros(len(codes))
        for at in WIDTH_AT:
            widths = np.array(space.dimensions[at][1])
            first = np.maximum(np.searchsorted(widths, least), lows[at])
            codes[:, at] = first + np.floor(rng.random(len(codes)) * (len(widths) - first))
            least = widths[codes[:, at]]
        total = cost.total(codes) / 1e6
        kept.append(codes[(total >= low) & (total <= high)])
    return np.concatenate(kept)


def same_p(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """p of the hypothesis that two samples of category numbers come from one distribution; rare categories merged."""
    counts = np.stack([np.bincount(x, minlength=max(a.max(), b.max()) + 1) for x in (a, b)])
    rare = counts.sum(axis=0) < 2 * COMMON
    counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    counts = counts[:, counts.sum(axis=0) > 0]
    return float(chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0


def worst_p(space: Space, a: Codes, b: Codes, together: int) -> float:
    """The smallest p over all sets of that many positions, times the number of sets."""
    chosen = list(itertools.combinations(range(len(space.sizes)), together))
    ps = []
    for positions in chosen:
        sizes = space.sizes[list(positions)]
        first, second = (np.ravel_multi_index(tuple(x[:, positions].astype(np.int64).T), sizes) for x in (a, b))
        ps.append(same_p(np.asarray(first, np.int64), np.asarray(second, np.int64)))
    return min(ps) * len(chosen)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("target", "floor", "draws"),
    [
        pytest.param(100, None, 4_000_000, marks=pytest.mark.slow),
        (300, None, 600_000),
        (400, "min2", 1_000_000),
        (500, "min2", 600_000),
        (900, "min3", 600_000),
        (1200, "min3", 600_000),
    ],
)
def test_marginals_and_pairs_are_those_of_trial_and_error(target: int, floor: str | None, draws: int) -> None:
    space, above = paper(), PUBLISHED[floor] if floor else None
    band = BandSampler(space, floor=above, low=target, high=target + 20)
    tried = trial_and_error(space, band.costs, target, target + 20, draws, above)
    assert len(tried) > 10_000
    assert len(tried) / draws == pytest.approx(band.chance(np.random.default_rng(0)), rel=0.04)
    direct = band.sample(np.random.default_rng(1), len(tried))
    assert worst_p(space, direct, tried, 1) > ALPHA
    assert worst_p(space, direct, tried, 2) > ALPHA


@pytest.mark.medium
def test_the_comparison_notices_a_wrong_distribution() -> None:
    """Members of the same band with those that end wide drawn a little too seldom."""
    space = paper()
    codes = BandSampler(space, low=300, high=320).sample(np.random.default_rng(1), 40_000)
    right, wrong = codes[:20_000], codes[20_000:]
    wrong = wrong[(wrong[:, WIDTH_AT[-1]] < 5) | (np.random.default_rng(2).random(len(wrong)) < 0.8)]
    assert worst_p(space, right, wrong, 1) < ALPHA


@pytest.mark.medium
@pytest.mark.parametrize("floored", [False, True])
def test_every_member_is_drawn_with_its_exact_probability(floored: bool) -> None:
    space = few_space()
    every = np.array(list(itertools.product(*(range(n) for n in space.sizes))), np.int8)
    every = every[space.valid(every)]
    floor = np.zeros(len(space.sizes), np.int8)
    if floored:
        floor[[0, WIDTH_AT[1], WIDTH_AT[3] + 1, WIDTH_AT[4]]] = 1
    costs, least = CostTable.of_macs(space), space.decode(floor)
    floor = space.encode(least)
    chance = _chance(space, every, floor)
    assert chance.sum() == pytest.approx(1)
    mmacs = costs.total(every) / 1e6
    low, high = np.quantile(mmacs[chance > 0], (0.5, 0.502))
    inside = (mmacs >= low) & (mmacs <= high) & (chance > 0)
    members, expected = every[inside], chance[inside] / chance[inside].sum()

    band = BandSampler(space, "macs", least, low=low, high=high)
    n = 200_000
    codes = band.sample(np.random.default_rng(3), n)
    keys = {tuple(code): i for i, code in enumerate(members.tolist())}
    counts = np.bincount([keys[tuple(code)] for code in codes.tolist()], minlength=len(members))
    assert 50 < len(members) < 1000 and n * expected.min() > COMMON
    assert np.ptp(expected) > 0  # members are not equally likely
    assert chisquare(counts, n * expected).pvalue > ALPHA
    assert band.chance(np.random.default_rng(4)) == pytest.approx(chance[inside].sum(), rel=0.05)


def _chance(space: Space, codes: Codes, floor: Codes) -> NDArray[np.float64]:
    """Probability of each code under `Space.sample` restricted to a floor."""
    chance = np.ones(len(codes))
    least = np.zeros(len(codes))
    for i, (name, choices) in enumerate(space.dimensions):
        low: NDArray[np.int64] = np.zeros(len(codes), np.int64)
        if i in WIDTH_AT:
            low = np.maximum(np.searchsorted(np.array(choices), least), floor[i])
            least = np.array(choices)[codes[:, i]]
        elif name.endswith(("resolution", "depth")):
            low += floor[i]
        chance *= np.where(codes[:, i] >= low, 1 / (len(choices) - low), 0)
    return chance


@pytest.mark.medium
@pytest.mark.parametrize("name", PRESETS)
def test_drawn_networks_are_members_above_the_floor_and_in_the_band(name: str) -> None:
    space = PRESETS[name]()
    floor = space.decode(BandSampler(space, low=0, high=np.inf).sample(np.random.default_rng(4), 1)[0])
    low = paper_mflops(floor) * 1.2
    codes = BandSampler(space, floor=floor, low=low, high=low * 1.05).sample(np.random.default_rng(5), 500)
    bounds, bounded = (
        space.encode(floor),
        [name.endswith(("resolution", "width", "depth")) for name, _ in space.dimensions],
    )
    assert space.valid(codes).all()
    assert (codes >= bounds)[:, bounded].all()
    assert all(low <= paper_mflops(space.decode(code)) <= low * 1.05 for code in codes)


@pytest.mark.medium
def test_a_band_that_holds_everything_is_plain_sampling() -> None:
    space = small()
    codes = BandSampler(space, "macs", low=0, high=np.inf).sample(np.random.default_rng(6), 20_000)
    assert worst_p(space, codes, space.sample(np.random.default_rng(7), 20_000), 2) > ALPHA


def test_a_band_of_one_network() -> None:
    space = small()
    only = macs(space.smallest()) / 1e6
    codes = BandSampler(space, "macs", low=only, high=only).sample(np.random.default_rng(8), 3)
    assert [space.decode(code) for code in codes] == [space.smallest()] * 3


def test_the_same_random_numbers_draw_the_same_networks() -> None:
    band = BandSampler(small(), "macs", low=10, high=11)
    first, again = (band.sample(np.random.default_rng(9), 100) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize(("low", "high"), [(1e6, 2e6), (0.1, 0.2), (40, 30)])
def test_an_empty_band_is_refused(low: float, high: float) -> None:
    with pytest.raises(SpaceError, match="hardly any networks of cost"):
        BandSampler(small(), low=low, high=high).sample(np.random.default_rng(0), 1)


def test_a_floor_above_the_band_is_refused() -> None:
    with pytest.raises(SpaceError, match="above the floor"):
        BandSampler(paper(), floor=PUBLISHED["min2"], low=100, high=120)

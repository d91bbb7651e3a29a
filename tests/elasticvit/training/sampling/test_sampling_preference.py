"""The path preference makes transformer stages wider and shallower, at the same cost."""

import numpy as np
import pytest

from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import Codes, paper
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import paper_mflops
from elasticvit.training.sampling import Bank, Entry, Preference, Sampler, SamplerState, Sampling, SamplingError
from elasticvit.training.sampling.preference import VIT_DEPTHS, VIT_WIDTHS, depth_over_width, preferred

SPACE = paper()
COSTS = CostTable.of_paper_flops(SPACE)
PICKS = 400


def totals(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Sums of transformer widths and depths of every code."""
    values = [np.array([SPACE.dimensions[at][1][code[at]] for code in codes]) for at in (*VIT_WIDTHS, *VIT_DEPTHS)]
    return np.sum(values[:4], axis=0), np.sum(values[4:], axis=0)


def picks(preference: Preference | None, best: str, filled: int) -> Codes:
    """New sub-networks at 400 MFLOPs of a run whose banks hold `filled` networks, the best of them a published one."""
    sampler = Sampler(
        SPACE, Sampling(levels=(100.0, 400.0), subnets=PICKS, bank=Bank(capacity=20, q=0.0), preference=preference)
    )
    state = SamplerState(1, [[Entry(tuple(SPACE.encode(PUBLISHED[best]).tolist()), -0.5)] for _ in range(2)])
    codes = sampler.space.sample(np.random.default_rng(0), filled - 1)
    for bank in state.banks:
        bank += [Entry(tuple(code.tolist()), -1.0) for code in codes]
    rng = np.random.default_rng(1)
    while (choice := sampler.step(state, rng)).level != 1:
        pass
    assert all(choice.explored[:-1])
    return np.stack([SPACE.encode(arch) for arch in choice.archs[:-1]])


@pytest.mark.medium
@pytest.mark.parametrize("anchor", ["first", "own"])
def test_preference_raises_width_and_lowers_depth_at_400_mflops(anchor: str) -> None:
    plain_width, plain_depth = totals(picks(None, "T2", 20))
    chosen = picks(Preference(anchor=anchor), "T2", 20)  # type: ignore[arg-type]
    width, depth = totals(chosen)
    assert all(400 <= paper_mflops(SPACE.decode(code)) <= 420 for code in chosen)
    # By more than five standard errors of the difference; the reference found 739 against 690 and 10.8 against 12.5.
    for more, less in ((width, plain_width), (plain_depth, depth)):
        error = np.sqrt(more.var() / PICKS + less.var() / PICKS)
        assert more.mean() - less.mean() > 5 * error


@pytest.mark.medium
def test_preference_waits_for_a_bank_that_is_half_full() -> None:
    waiting, plain = (picks(preference, "T2", 9) for preference in (Preference(), None))
    assert np.array_equal(waiting, plain)
    assert not np.array_equal(picks(Preference(), "T2", 10), plain)


def test_d_is_the_cost_of_depth_less_that_of_width() -> None:
    """Written out for one pair: the anchor's widths with own depths against own widths with the anchor's depths."""
    own, anchor = (SPACE.encode(PUBLISHED[name]) for name in ("L2", "T1"))
    deep, wide = own.copy(), own.copy()
    for stage in range(3, 7):
        deep[1 + 4 * stage] = anchor[1 + 4 * stage]
        wide[2 + 4 * stage] = anchor[2 + 4 * stage]
    expected = paper_mflops(SPACE.decode(deep)) - paper_mflops(SPACE.decode(wide))
    assert depth_over_width(COSTS, own[None], anchor)[0] / 1e6 == pytest.approx(expected)


def test_the_candidate_with_the_smallest_d_is_taken() -> None:
    rng = np.random.default_rng(2)
    anchor, candidates = SPACE.encode(PUBLISHED["T1"]), SPACE.sample(rng, 35).reshape(7, 5, -1)
    taken = preferred(COSTS, candidates, anchor)
    for group, best in zip(candidates, taken, strict=True):
        d = depth_over_width(COSTS, group, anchor)
        assert np.array_equal(best, group[int(np.argmin(d))])


def test_no_candidates_are_refused() -> None:
    with pytest.raises(SamplingError):
        Preference(candidates=0)

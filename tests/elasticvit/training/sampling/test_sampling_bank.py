"""Memory banks: capacity, replacement, exploiting, refreshing, and the state's way through JSON."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import paper, small
from elasticvit.errors import SpaceError
from elasticvit.training.sampling import (
    Bank,
    Choice,
    Entry,
    Sampler,
    SamplerState,
    Sampling,
    SamplingError,
    paper_sampling,
)
from elasticvit.training.sampling import bank as banks


def entries(*scores: float) -> list[Entry]:
    return [Entry((i,), score) for i, score in enumerate(scores)]


def full_state(sampler: Sampler, n: int) -> SamplerState:
    """A state with n sub-networks in every bank."""
    state, rng = sampler.start(), np.random.default_rng(4)
    while min(map(len, state.banks)) < n:
        choice = sampler.step(state, rng)
        if len(state.banks[choice.level]) < n:
            sampler.observe(state, choice, list(-rng.random(len(choice.archs))))
    return state


def test_a_bank_fills_up_and_then_replaces_its_worst() -> None:
    bank: list[Entry] = []
    for i, score in enumerate((-3.0, -1.0, -2.0)):
        assert banks.insert(bank, Entry((i,), score), 3)
    assert not banks.insert(bank, Entry((3,), -3.0), 3)  # not better than the worst
    assert banks.insert(bank, Entry((4,), -2.5), 3)
    assert [entry.code for entry in bank] == [(4,), (1,), (2,)]
    assert banks.insert(bank, Entry((5,), -0.5), 3)
    assert [entry.code for entry in bank] == [(5,), (1,), (2,)]


def test_a_bank_has_nothing_twice_and_nothing_unmeasured() -> None:
    bank = entries(-1.0, -2.0)
    assert banks.insert(bank, Entry((0,), -4.0), 2)
    assert [(entry.code, entry.score) for entry in bank] == [((0,), -4.0), ((1,), -2.0)]
    assert not banks.insert(bank, Entry((7,), float("nan")), 5)
    banks.rescore(bank, [-7.0, float("nan")])
    assert [(entry.code, entry.score) for entry in bank] == [((0,), -7.0)]


def test_capacity_is_smaller_for_large_networks() -> None:
    assert [banks.capacity_of(Bank(), target) for target in (100, 400, 499.9, 500, 1200)] == [150, 150, 150, 50, 50]
    assert banks.capacity_of(Bank(capacity=8, capacity_large=4, large_from=10), 10) == 4


def test_the_chance_to_exploit_rises_by_the_schedule() -> None:
    chance = [banks.exploit_chance(Bank(), epoch) for epoch in (0, 98, 99, 198, 199, 299, 399, 499, 599, 609)]
    assert chance == pytest.approx([0.2, 0.2, 0.35, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0, 1.0])


@pytest.mark.parametrize("held", [2, 3])
def test_a_bank_is_used_when_it_is_more_than_half_full(held: int) -> None:
    assert banks.may_exploit(entries(*range(held)), 4) == (held == 3)
    assert banks.may_exploit(entries(*range(held)), 5) == (held == 3)


@pytest.mark.medium
def test_the_three_ways_to_draw_from_a_bank() -> None:
    bank, rng, n = entries(-1.0, -2.0, -4.0), np.random.default_rng(0), 20_000

    def counts(how: str) -> list[int]:
        settings = Bank(draw=how)  # type: ignore[arg-type]
        drawn = [banks.draw(bank, settings, rng).code[0] for _ in range(n)]
        return [drawn.count(i) for i in range(3)]

    weights = np.exp([-1.0, -2.0, -4.0])
    assert chisquare(counts("softmax"), n * weights / weights.sum()).pvalue > 1e-3
    assert chisquare(counts("uniform")).pvalue > 1e-3
    assert counts("best") == [n, 0, 0]


@pytest.mark.medium
@pytest.mark.parametrize(("epoch", "chance"), [(0, 0.3), (1, 0.5), (9, 1.0)])
def test_a_full_bank_is_exploited_with_probability_q(epoch: int, chance: float) -> None:
    sampler = Sampler(small(), Sampling(levels=2, bank=Bank(capacity=20, q=0.3, q_step=0.2, q_every=2)))
    state, rng = full_state(sampler, 20), np.random.default_rng(1)
    held = [{entry.code for entry in bank} for bank in state.banks]
    explored = []
    for _ in range(400):
        choice = sampler.step(state, rng, epoch)
        for arch, new in zip(choice.archs[:-1], choice.explored[:-1], strict=True):
            explored.append(new)
            assert new or tuple(sampler.space.encode(arch).tolist()) in held[choice.level]
    assert binomtest(explored.count(False), len(explored), chance).pvalue > 1e-3


def test_a_bank_that_is_half_full_is_not_exploited() -> None:
    sampler = Sampler(small(), Sampling(levels=2, bank=Bank(capacity=20, q=1.0)))
    state = full_state(sampler, 10)
    for bank in state.banks:
        del bank[10:]
    assert all(all(sampler.step(state, np.random.default_rng(i)).explored[:-1]) for i in range(30))


def test_only_what_was_explored_and_is_not_too_large_is_observed() -> None:
    sampler = Sampler(small(), Sampling(levels=3, bank=Bank(capacity=4)))
    state, space = sampler.start(), sampler.space
    rng = np.random.default_rng(0)
    while (drawn := sampler.step(state, rng)).level != 0:
        pass
    inside = drawn.archs[0]
    archs: tuple[Arch, ...] = (inside, space.largest(), space.smallest())
    choice = Choice(0, archs, ("uniform", "uniform", "smallest"), (True, True, False))
    sampler.observe(state, choice, [-1.0, -0.1, -0.1])
    assert [entry.code for entry in state.banks[0]] == [tuple(space.encode(inside).tolist())]
    sampler.observe(state, Choice(0, (inside,), ("uniform",), (False,)), [-9.0])
    assert state.banks[0][0].score == -1.0 and state.banks[1:] == [[], []]


@pytest.mark.medium
def test_banks_of_the_paper_s_capacity() -> None:
    sampler = Sampler(paper(), paper_sampling())
    state, rng = sampler.start(), np.random.default_rng(0)
    for _ in range(1200):
        choice = sampler.step(state, rng)
        sampler.observe(state, choice, list(-rng.random(len(choice.archs))))
    assert [len(bank) for bank in state.banks] == [150, 150, 150, 150, 50, 50, 50, 50]
    assert all(len({entry.code for entry in bank}) == len(bank) for bank in state.banks)


def test_refresh_at_the_start_of_an_epoch_and_at_its_quarters() -> None:
    sampler = Sampler(small(), Sampling(levels=3, bank=Bank(capacity=6)))
    state = full_state(sampler, 4)
    state.level = 1
    due = {batch: [level for level, _ in sampler.refresh_due(state, batch, 20)] for batch in range(20)}
    assert {batch: levels for batch, levels in due.items() if levels} == {0: [0, 1, 2], 5: [1], 10: [1], 15: [1]}
    level, archs = sampler.refresh_due(state, 5, 20)[0]
    sampler.rescore(state, level, [-float(i) for i in range(len(archs))])
    assert [entry.score for entry in state.banks[1]] == [-float(i) for i in range(len(archs))]
    assert [sampler.space.encode(arch).tolist() for arch in archs] == [list(entry.code) for entry in state.banks[1]]
    quiet = Sampler(small(), Sampling(levels=3, bank=Bank(capacity=6, refresh=False)))
    assert quiet.refresh_due(state, 0, 20) == ()


@pytest.mark.parametrize("index", [-1, 3, 128, 200])
def test_a_code_of_a_checkpoint_that_is_not_in_the_space_is_refused(index: int) -> None:
    sampler = Sampler(small(), Sampling(levels=2, bank=Bank(capacity=6, q=1.0)))
    state = full_state(sampler, 5)
    data = state.to_dict()
    for bank in data["banks"]:
        for entry in bank:
            entry[0][0] = index
    state = SamplerState.from_dict(json.loads(json.dumps(data)))
    with pytest.raises(SpaceError, match="is not in space 'small'"):
        sampler.refresh_due(state, 0, 20)
    with pytest.raises(SpaceError, match="is not in space 'small'"):
        sampler.step(state, np.random.default_rng(0))


@pytest.mark.medium
def test_a_state_survives_json_and_goes_on_as_if_nothing_had_happened() -> None:
    sampler = Sampler(small(), Sampling(levels=4, bank=Bank(capacity=6, q=0.5)))
    state = full_state(sampler, 5)
    again = SamplerState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert again == state
    for i in range(20):
        a, b = (sampler.step(s, np.random.default_rng(i)) for s in (state, again))
        assert a == b
        for s in (state, again):
            sampler.observe(s, a, [-0.1 * k for k in range(len(a.archs))])
    assert again.to_dict() == state.to_dict()


@pytest.mark.parametrize("data", [{}, {"level": 0, "banks": [[["x", 1.0]]]}, {"level": None, "banks": []}], ids=str)
def test_what_is_no_state_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(SamplingError, match="not a sampler's state"):
        SamplerState.from_dict(data)


@pytest.mark.parametrize("settings", [{"capacity": 0}, {"q": 1.5}, {"q_step": -0.1}, {"q_every": 0}], ids=str)
def test_bank_settings_without_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SamplingError):
        Bank(**settings)  # type: ignore[arg-type]

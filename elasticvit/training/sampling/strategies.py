"""The sampler: chooses the sub-networks of a step from settings, state and random numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.level_tables import load_level_tables
from elasticvit.errors import SpaceError
from elasticvit.training.sampling import bank as banks
from elasticvit.training.sampling.levels import Level, cost_of, ladder, walk
from elasticvit.training.sampling.preference import preferred
from elasticvit.training.sampling.settings import Sampling, SamplingError
from elasticvit.training.sampling.state import Choice, Entry, Role, SamplerState


class Draws(Protocol):
    """Random members of a level."""

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        """n codes, shape (n, D)."""


class Sampler:
    """Chooses the sub-networks of every step.

    It has no mutable state: the same state argument and random numbers give the same choice.

    Args:
        tables: a folder that `elasticvit.costs.level_tables.build_level_tables` filled for these levels and floors;
            sub-networks are then sampled from it. Without it they are sampled from the whole level.

    Raises:
        SamplingError: the settings do not fit the space, or a level has no networks.
        LevelTableError: the level tables are damaged or were built for other levels.
    """

    def __init__(self, space: Space, sampling: Sampling, tables: Path | None = None) -> None:
        self.space, self.sampling = space, sampling
        self.levels: tuple[Level, ...] = ()
        self._draws: tuple[Draws, ...] = ()
        if sampling.strategy == "adjacent":
            self.costs = cost_of(space, sampling)
            self.levels = ladder(space, sampling, self.costs)
            self._draws = tuple(self._of_tables(tables) if tables else self._of_bands())

    def start(self) -> SamplerState:
        """The state before the first step."""
        return SamplerState(0, [[] for _ in self.levels])

    def step(self, state: SamplerState, rng: np.random.Generator, epoch: int = 0) -> Choice:
        """Move the state's level and choose the sub-networks of the step."""
        if self.sampling.strategy == "fixed":
            return _together([(arch, "uniform", True) for arch in self.sampling.archs], 0)
        include = set(self.sampling.include)
        smallest: tuple[Arch, Role] = (self.space.smallest(), "smallest")
        if self.sampling.strategy == "sandwich":
            include = {"smallest", "largest"}
            codes, explored = self.space.sample(rng, self.sampling.subnets), [True] * self.sampling.subnets
        else:
            state.level = walk(state.level, len(self.levels), rng)
            codes, explored = self._of_level(state, rng, epoch)
            if self.sampling.floors:
                smallest = (self.levels[state.level].smallest, "floor")
        chosen: list[tuple[Arch, Role, bool]] = [
            (self.space.decode(code), "uniform", new) for code, new in zip(codes, explored, strict=True)
        ]
        if "largest" in include:
            chosen.insert(0, (self.space.largest(), "largest", False))
        if "smallest" in include:
            chosen.append((*smallest, False))
        return _together(chosen, state.level)

    def observe(self, state: SamplerState, choice: Choice, scores: Sequence[float]) -> None:
        """Add the explored networks of a choice to the bank of its level; does nothing without banks.

        Args:
            scores: one for each network of `choice.archs`: the negative cross-entropy on the unmixed batch with hard
                labels. Scores of networks that were not explored, and scores that are not finite, are ignored.

        Raises:
            SpaceError: an explored architecture is not in the space.
        """
        if self.sampling.bank is None:
            return
        level = self.levels[choice.level]
        capacity = banks.capacity_of(self.sampling.bank, level.low)
        for arch, role, new, score in zip(choice.archs, choice.roles, choice.explored, scores, strict=True):
            if role != "uniform" or not new:
                continue
            code = self.space.encode(arch)
            if self.costs.total(code[None])[0] / 1e6 <= level.high:
                banks.insert(state.banks[choice.level], Entry(tuple(code.tolist()), float(score)), capacity)

    def refresh_due(
        self, state: SamplerState, batch: int, batches_per_epoch: int
    ) -> Sequence[tuple[int, tuple[Arch, ...]]]:
        """Banks to measure again before batch `batch` (from 0) of an epoch: (level, its sub-networks in order).

        All banks at the start of an epoch, the bank of the current level at its quarters. (The authors' code measures
        it three times in a row, once for each sub-network of the step, with the same result.)
        """
        if self.sampling.bank is None or not self.sampling.bank.refresh:
            return ()
        quarters = {batches_per_epoch * k // 4 for k in (1, 2, 3)} - {0}
        due = range(len(self.levels)) if batch == 0 else [state.level] if batch in quarters else []
        return [(i, tuple(map(self._decoded, state.banks[i]))) for i in due if state.banks[i]]

    def rescore(self, state: SamplerState, level: int, scores: Sequence[float]) -> None:
        """Set new scores of a level's bank, in the order of `refresh_due`."""
        banks.rescore(state.banks[level], scores)

    def _of_level(self, state: SamplerState, rng: np.random.Generator, epoch: int) -> tuple[Codes, list[bool]]:
        """The random sub-networks of a step, shape (subnets, D), and which of them are new."""
        n, settings = self.sampling.subnets, self.sampling.bank
        if settings is None:
            return self._draws[state.level].sample(rng, n), [True] * n
        entries = state.banks[state.level]
        full_enough = banks.may_exploit(entries, banks.capacity_of(settings, self.levels[state.level].low))
        new = [not full_enough or r >= banks.exploit_chance(settings, epoch) for r in rng.random(n)]
        fresh = iter(self._explore(state, rng, sum(new)))
        codes = [next(fresh) if is_new else self._code(banks.draw(entries, settings, rng)) for is_new in new]
        return np.stack(codes), new

    def _explore(self, state: SamplerState, rng: np.random.Generator, n: int) -> Codes:
        """n new sub-networks of the state's level, preferred ones once its bank is half full."""
        draws, preference, settings = self._draws[state.level], self.sampling.preference, self.sampling.bank
        if preference is None or settings is None:
            return draws.sample(rng, n)
        level = self.levels[state.level]
        if len(state.banks[state.level]) < banks.capacity_of(settings, level.low) // 2:
            return draws.sample(rng, n)
        # There is no level before the first one; its anchor is its smallest network.
        own = preference.anchor == "own"
        entries = state.banks[state.level] if own else state.banks[0] if state.level else []
        anchor = self._code(banks.best(entries)) if entries else self.space.encode(level.smallest)
        candidates = draws.sample(rng, n * preference.candidates)
        return preferred(self.costs, candidates.reshape(n, preference.candidates, len(anchor)), anchor)

    def _decoded(self, entry: Entry) -> Arch:
        return self.space.decode(self._code(entry))

    def _code(self, entry: Entry) -> Codes:
        """The code of an entry, (D,). Raises `SpaceError` where a checkpoint holds one that is not in the space."""
        return np.asarray(self.space.checked([entry.code])[0], np.int8)

    def _of_bands(self) -> list[Draws]:
        try:
            return [
                BandSampler(self.space, self.costs, level.floor, low=level.low, high=level.high, unit=1e6)
                for level in self.levels
            ]
        except SpaceError as error:
            raise SamplingError(f"a level holds no networks: {error}") from error

    def _of_tables(self, folder: Path) -> list[Draws]:
        if isinstance(self.sampling.levels, int):
            raise SamplingError("level tables are for levels by targets; give targets, or no level tables")
        tables = load_level_tables(folder)
        return [tables.rows(self.costs, level.low, level.high, level.floor) for level in self.levels]


def _together(chosen: Sequence[tuple[Arch, Role, bool]], level: int) -> Choice:
    archs, roles, explored = zip(*chosen, strict=True)
    return Choice(level, archs, roles, explored)

"""The sampler: from settings, state and random numbers to the sub-networks of a step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from elasticvit.arch import Arch
from elasticvit.space import Codes, Space
from elasticvit.training.samplers import AdjacentStep
from elasticvit.training.sampling.settings import Sampling, SamplingError
from elasticvit.training.sampling.state import Choice, Role, SamplerState


class Sampler:
    """Chooses the sub-networks of every step.

    It keeps nothing that changes: the same state and random numbers give the same choice, whatever came before.

    Args:
        tables: a folder that `elasticvit.tables.build_tables` filled; sub-networks are then drawn from it.

    Raises:
        SamplingError: the settings do not fit the space.
    """

    def __init__(self, space: Space, sampling: Sampling, tables: Path | None = None) -> None:
        self.space, self.sampling = space, sampling
        if not isinstance(sampling.levels, int):
            raise SamplingError("levels by targets are not there yet")
        self._adjacent = AdjacentStep.over(space, sampling.levels, sampling.subnets)

    def start(self) -> SamplerState:
        """The state before the first step."""
        return SamplerState(0, [])

    def step(self, state: SamplerState, rng: np.random.Generator, epoch: int = 0) -> Choice:
        """Move the state's level and choose the sub-networks of the step."""
        roles: list[Role] = []
        archs: list[Arch] = []
        if self.sampling.strategy == "fixed":
            archs, roles = list(self.sampling.archs), ["uniform"] * len(self.sampling.archs)
            return Choice(0, tuple(archs), tuple(roles), (True,) * len(archs))
        include = set(self.sampling.include)
        if self.sampling.strategy == "sandwich":
            include |= {"smallest", "largest"}
            codes: Codes = self.space.sample(rng, self.sampling.subnets)
        else:
            state.level = self._adjacent.walk(state.level, rng)
            codes = self._adjacent.in_band(state.level, rng, self.sampling.subnets)
        if "largest" in include:
            archs, roles = [self.space.largest()], ["largest"]
        archs += [self.space.decode(code) for code in codes]
        roles += ["uniform"] * len(codes)
        if "smallest" in include:
            archs, roles = [*archs, self.space.smallest()], [*roles, "smallest"]
        return Choice(state.level, tuple(archs), tuple(roles), tuple(role == "uniform" for role in roles))

    def observe(self, state: SamplerState, choice: Choice, scores: Sequence[float]) -> None:
        """Put what the choice explored into its level's bank; without a bank this does nothing.

        Args:
            scores: one a network of `choice.archs`, minus the cross-entropy on the unmixed batch with hard labels; what
                stands at networks that were not explored is not read, and a score that is no finite number is left out.
        """

    def refresh_due(
        self, state: SamplerState, batch: int, batches_per_epoch: int
    ) -> Sequence[tuple[int, tuple[Arch, ...]]]:
        """Banks to measure again before batch `batch` (from 0) of an epoch: (level, its sub-networks in order)."""
        return ()

    def rescore(self, state: SamplerState, level: int, scores: Sequence[float]) -> None:
        """New scores of a level's bank, in the order that `refresh_due` gave."""

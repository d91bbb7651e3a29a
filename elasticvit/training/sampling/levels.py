"""Levels of cost: their bounds, their smallest sub-networks, and the random walk between them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.levels import Floors, floor_by_key
from elasticvit.training.sampling.settings import Sampling, SamplingError

QUANTILE_DRAWS = 20_000


@dataclass(frozen=True)
class Level:
    """Networks that cost `low` to `high` (millions), not below `floor`; `smallest` is trained with them."""

    low: float
    high: float
    smallest: Arch
    floor: Arch | None = None


def cost_of(space: Space, sampling: Sampling) -> CostTable:
    """The cost of levels: the paper's formula for levels by target, MACs for levels of equal shares."""
    return CostTable.of_macs(space) if isinstance(sampling.levels, int) else CostTable.of_paper_flops(space)


def ladder(space: Space, sampling: Sampling, costs: CostTable) -> tuple[Level, ...]:
    """The levels of a run, smallest first. Raises `SamplingError` for a floor that is not in the space."""
    floors = tuple((key, space.adopt(arch)) for key, arch in sampling.floors)
    for key, arch in floors:
        if not space.contains(arch):
            raise SamplingError(f"the floor of key {key:g} is not in space {space.name!r}; give floors that are")
    if isinstance(sampling.levels, int):
        edges = shares(space, sampling.levels, costs)
        bands, band = list(pairwise(edges)), 0.0
    else:
        bands, band = [(target, target + sampling.band) for target in sampling.levels], sampling.band
    levels = []
    for low, high in bands:
        floor = _floor(floors, low, band, sampling, costs) if floors else None
        bounding = floor if sampling.floor_rule == "authors" else None
        levels.append(Level(low, high, floor or space.smallest(), bounding))
    return tuple(levels)


def shares(space: Space, levels: int, costs: CostTable) -> tuple[float, ...]:
    """Edges, in millions, of levels with equal shares of the space's random samples.

    The walk visits all levels equally often, so every network is trained as often as the space samples it. (Levels at
    even distances, as in the authors' code, train the few largest networks more often.)
    """
    samples = costs.total(space.sample(np.random.default_rng(0), QUANTILE_DRAWS))
    inner = np.quantile(samples, np.arange(1, levels) / levels)
    largest = max(float(samples.max()), float(costs.total(space.encode(space.largest())[None])[0]))
    return tuple(float(edge) / 1e6 for edge in (costs.smallest()[0], *inner, largest))


def walk(level: int, levels: int, rng: np.random.Generator) -> int:
    """The next level: down, same or up with equal probability; at either end it stays instead of leaving the range."""
    return int(np.clip(level + rng.integers(-1, 2), 0, levels - 1))


def _floor(floors: Floors, target: float, band: float, sampling: Sampling, costs: CostTable) -> Arch:
    if sampling.floor_rule == "authors":
        return floor_by_key(floors, target, band)
    code = {arch: costs.space.encode(arch) for _, arch in floors}
    cost = {arch: float(costs.total(code[arch][None])[0]) / 1e6 for arch in code}
    return min(cost, key=lambda arch: abs(cost[arch] - target))

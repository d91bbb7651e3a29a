"""Settings of the sub-networks of a run, part of a training recipe.

The docstrings state the values of the paper and of the authors' code; where the two differ, both can be set.
"""

from dataclasses import dataclass
from typing import Literal

from elasticvit.archs.arch import Arch
from elasticvit.costs.levels import PAPER_BAND, PAPER_FLOORS, PAPER_LEVELS, Floors
from elasticvit.errors import ElasticVitError


class SamplingError(ElasticVitError):
    """The settings of sub-networks are not valid."""


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Memory banks of good sub-networks, one for each level (paper, section 4.2). Defaults are the authors' numbers."""

    capacity: int = 150
    capacity_large: int = 50
    """Of levels from `large_from` on; the supplement has 150 for every level, the authors' code 50."""
    large_from: float = 500.0
    """MFLOPs (MMACs for levels of equal shares)."""
    q: float = 0.2
    """Probability that a sub-network is taken from the bank, once the bank is more than half full."""
    q_step: float = 0.15
    """Added to q every `q_every` epochs, up to 1."""
    q_every: int = 100
    draw: Literal["softmax", "uniform", "best"] = "softmax"
    """softmax: in proportion to exp(score), as in the authors' code; uniform: eq. 6 of the paper; or the best."""
    refresh: bool = True
    """Whether scores are measured again: all banks at the start of an epoch, the current level's at its quarters."""

    def __post_init__(self) -> None:
        if min(self.capacity, self.capacity_large, self.q_every) < 1:
            raise SamplingError("a bank's capacities and q_every must be 1 or more")
        if not 0 <= self.q <= 1 or self.q_step < 0:
            raise SamplingError(f"q must be 0 to 1 and q_step not negative, got {self.q} and {self.q_step}")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Preference of wide and shallow transformer stages (paper, section 4.2, in the direction of the authors' code).

    Eq. 7 and 8 of the paper, taken literally, prefer depth; the authors' code selects the smallest difference, which
    prefers width, and this follows the code.
    """

    candidates: int = 5
    """Number of sub-networks in the band from which the preferred one is chosen."""
    anchor: Literal["first", "own"] = "first"
    """The bank whose best sub-network is the anchor: the first level's (the authors' code; for the first level itself
    the smallest network), or the level's own (the paper)."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise SamplingError(f"a preference needs 1 candidate or more, got {self.candidates}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sub-networks that a step trains. Raises `SamplingError` if settings contradict each other."""

    strategy: Literal["sandwich", "adjacent", "fixed"] = "adjacent"
    """sandwich: the largest, `subnets` of any size and the smallest of the space; adjacent: `subnets` of one level,
    which moves to a neighbour every step; fixed: always `archs`."""
    subnets: int = 3
    levels: tuple[float, ...] | int = 6
    """Ascending targets in MFLOPs by the paper's formula, or a number of levels with equal shares of the space's random
    samples, by MACs."""
    band: float = PAPER_BAND
    """MFLOPs; a level of target F is [F, F + band], as in the authors' code."""
    include: tuple[Literal["smallest", "largest"], ...] = ("smallest",)
    """Further sub-networks of a step; "no biggest" is the default. The sandwich always has both."""
    floors: Floors = ()
    """Hierarchical smallest sub-networks by ascending key: a level trains its floor in place of the smallest. Empty: no
    hierarchy."""
    floor_rule: Literal["authors", "closest"] = "authors"
    """authors: the floor of the first key not below the level's target less `band`, else of the last; and no
    sub-network of the level is drawn below its floor in resolution, widths or depths. closest: the floor whose cost is
    closest to the target, be it above; draws are not bounded (the paper's text)."""
    bank: Bank | None = None
    preference: Preference | None = None
    archs: tuple[Arch, ...] = ()
    """The sub-networks of the strategy "fixed"."""

    def __post_init__(self) -> None:
        if (self.strategy == "fixed") != bool(self.archs):
            raise SamplingError("archs belong to the strategy 'fixed', which needs some")
        if self.strategy != "adjacent" and (self.bank or self.preference or self.floors):
            raise SamplingError(f"bank, preference and floors belong to the strategy 'adjacent', not {self.strategy!r}")
        if self.preference and not self.bank:
            raise SamplingError("a preference compares with the best of a bank; give a bank too")
        if self.subnets < 1:
            raise SamplingError(f"a step needs 1 sub-network or more, got {self.subnets}")
        if isinstance(self.levels, int):
            if self.levels < 1:
                raise SamplingError(f"there must be 1 level or more, got {self.levels}")
        elif not self.levels or list(self.levels) != sorted(set(self.levels)) or self.band <= 0:
            raise SamplingError(f"targets must ascend and their band be above 0, got {self.levels} and {self.band}")
        keys = [key for key, _ in self.floors]
        if keys != sorted(set(keys)):
            raise SamplingError(f"the floors' keys must ascend, got {keys}")


def paper_sampling() -> Sampling:
    """Adjacent step, no biggest, hierarchy, bank and preference, with the numbers of the authors' code."""
    return Sampling(levels=PAPER_LEVELS, floors=PAPER_FLOORS, bank=Bank(), preference=Preference())

"""The state of a sampler between steps, and its choice for a step: plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from elasticvit.archs.arch import Arch
from elasticvit.training.sampling.settings import SamplingError

Role = Literal["uniform", "smallest", "largest", "floor"]


@dataclass
class Entry:
    """A sub-network in a bank: its code and its last score (negative cross-entropy; higher is better)."""

    code: tuple[int, ...]
    score: float


@dataclass
class SamplerState:
    """The level of the walk, and a bank for each level."""

    level: int = 0
    banks: list[list[Entry]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers, for JSON or a checkpoint; `from_dict` restores the same state bit for bit."""
        return {"level": self.level, "banks": [[[list(e.code), e.score] for e in bank] for bank in self.banks]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SamplerState":
        """Read what `to_dict` wrote. Raises `SamplingError`."""
        try:
            banks = [[Entry(tuple(map(int, code)), float(score)) for code, score in bank] for bank in data["banks"]]
            return cls(int(data["level"]), banks)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SamplingError(f"not a sampler's state: {error!r}; start the run again") from error


@dataclass(frozen=True)
class Choice:
    """The sub-networks of one step: the teaching ones first, the smallest or floor last.

    Attributes:
        explored: newly sampled, not taken from the bank; `Sampler.observe` adds these to the bank.
    """

    level: int
    archs: tuple[Arch, ...]
    roles: tuple[Role, ...]
    explored: tuple[bool, ...]

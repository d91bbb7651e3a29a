"""Training data of latency predictors: times of blocks and of whole networks on one device profile."""

from dataclasses import dataclass

from elasticvit.archs.arch import Arch
from elasticvit.costs.blocks import Block


@dataclass(frozen=True, slots=True)
class BlockRow:
    """Time of one block inside one measured network, milliseconds at the anchor's reference speed."""

    arch_id: str
    block: Block
    ms: float


@dataclass(frozen=True, slots=True)
class WholeSample:
    """A measured whole network: normalised p50 and p90, and the time of its p50 that belongs to no block.

    `p90_ms` is None where the session does not tell it.
    """

    arch: Arch
    p50_ms: float
    p90_ms: float | None
    overhead_ms: float = 0.0

"""What predictors are fitted to: times of blocks, and of whole models, on one device profile."""

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
    """A whole network measured: normalised p50 and p90, and the part of p50 that belongs to no block."""

    arch: Arch
    p50_ms: float
    p90_ms: float
    overhead_ms: float = 0.0

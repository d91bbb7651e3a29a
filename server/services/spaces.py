"""The space of a supernet, and the least that any network in it costs, for checks before anything is queued."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from elasticvit.archs.arch import HEAD_DIM
from elasticvit.archs.space import PRESETS, Space
from elasticvit.costs.blocks import Block, BlockKind
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import block_params
from elasticvit.errors import SpaceError
from server.errors import ServerError
from server.services import supernets
from server.store.supernet_file import describe
from server.store.tables import Supernet

BYTES_PER_WEIGHT = 4
# Tensor and operator records of the flatbuffer; a block has 12 to 24 of each.
RECORD_BYTES = 6_000
MEGABYTE = 1e6


@dataclass(frozen=True)
class Smallest:
    """The least of each cost over all networks of a space; not of one and the same network."""

    macs: float
    size_mb: float


def of(supernet: Supernet, folder: Path) -> Space | None:
    """The supernet's space, also where its row has only the space's name; None if the file cannot be read.

    `folder` holds the supernets.
    """
    if isinstance(supernet.space, dict):
        return _from_json(json.dumps(supernet.space, sort_keys=True))
    if supernet.space in PRESETS and supernet.classes is not None:
        return _preset(supernet.space, supernet.classes)
    try:
        return describe(supernets.path(supernet, folder)).space
    except (ServerError, SpaceError):
        return None


@lru_cache(maxsize=8)
def smallest(space: Space) -> Smallest:
    """Exact; takes a moment for the first request of a space."""
    return Smallest(CostTable.of_macs(space).smallest()[0], size_mb(space).smallest()[0])


def size_mb(space: Space) -> CostTable:
    """Upper bound of the float32 file's size, MB: weights, gathered position biases, records."""

    def of_block(block: Block) -> float:
        gathered = block.width_in // HEAD_DIM * block.side_in**4 if block.kind is BlockKind.ATTENTION else 0
        return (BYTES_PER_WEIGHT * (block_params(block) + gathered) + RECORD_BYTES) / MEGABYTE

    return CostTable.build(space, lambda blocks: np.array([of_block(block) for block in blocks]))


@lru_cache(maxsize=8)
def _from_json(text: str) -> Space:
    return Space.from_json(text)


@lru_cache(maxsize=8)
def _preset(name: str, classes: int) -> Space:
    return PRESETS[name](classes)

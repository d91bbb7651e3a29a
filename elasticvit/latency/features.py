"""Features of a block for latency predictors: its sizes, its operations and the bytes that it moves.

Multiply-accumulates alone predict badly: one on a 3×3 grid takes four times as long as one on a 12×12 grid, and one in
the head twenty times, because there the weights stream from memory. So weights, activations and grid positions are
features of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.arch import HEAD_DIM
from elasticvit.costs.blocks import Block, BlockKind
from elasticvit.costs.ops import OpKind, block_ops

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Work:
    """Operations and bytes of one run of a block, batch 1, float32."""

    dense_macs: int
    depthwise_macs: int
    weight_bytes: int
    activation_bytes: int
    positions: int

    def as_row(self) -> tuple[int, ...]:
        return (self.dense_macs, self.depthwise_macs, self.weight_bytes, self.activation_bytes, self.positions)


@lru_cache(maxsize=65_536)
def work(block: Block) -> Work:
    """The work of a block; activations are all tensors that its operators write, and its input once."""
    ops = block_ops(block)
    depthwise = sum(op.macs for op in ops if op.kind is OpKind.DEPTHWISE)
    # A folded network has one shift per channel for each norm; position-bias tables are expanded to tokens × tokens.
    weights = sum(op.params // 2 if op.kind is OpKind.NORM else op.params for op in ops if op.kind is not OpKind.TABLE)
    if block.kind is BlockKind.ATTENTION:
        weights += _heads(block) * block.side_in**4
    return Work(
        dense_macs=sum(op.macs for op in ops) - depthwise,
        depthwise_macs=depthwise,
        weight_bytes=FLOAT_BYTES * weights,
        activation_bytes=FLOAT_BYTES * _activations(block),
        positions=block.side_out**2,
    )


def work_rows(blocks: Sequence[Block]) -> NDArray[np.float64]:
    """Work of many blocks, shape (n, 5), in the order of `Work.as_row`."""
    return np.array([work(block).as_row() for block in blocks], np.float64).reshape(len(blocks), 5)


FEATURE_NAMES = (
    *("side_in", "side_out", "width_in", "width_out", "stride", "kernel", "expand", "v_scale", "mlp_ratio"),
    *("dense_macs", "depthwise_macs", "weight_bytes", "activation_bytes", "positions"),
    *(f"log_{name}" for name in ("dense_macs", "depthwise_macs", "weight_bytes", "activation_bytes", "positions")),
    "macs_per_weight_byte",
)


def features(block: Block) -> list[float]:
    """The feature vector of a block for a forest, in the order of `FEATURE_NAMES`."""
    row = work(block).as_row()
    sizes = (block.side_in, block.side_out, block.width_in, block.width_out, block.stride, block.kernel)
    choices = (block.expand, block.v_scale, block.mlp_ratio)
    intensity = (row[0] + row[1]) / max(row[2], 1)
    return [float(v) for v in (*sizes, *choices, *row, *np.log1p(row), intensity)]


def _heads(block: Block) -> int:
    return block.width_in // HEAD_DIM


def _activations(block: Block) -> int:
    """Numbers read and written between the operators of a block."""
    before, after = block.side_in**2, block.side_out**2
    mid = block.expand * block.width_in
    match block.kind:
        case BlockKind.FIRST_CONV:
            return 3 * before + 2 * block.width_out * after
        case BlockKind.CONV | BlockKind.DOWNSAMPLE:
            expanded = 2 * mid * before if block.expand > 1 else 0
            gated = mid * after if block.squeeze else 0
            return block.width_in * before + expanded + 2 * mid * after + gated + 3 * block.width_out * after
        case BlockKind.ATTENTION:
            scores = _heads(block) * before**2
            return before * block.width_in * (6 + 4 * block.v_scale) + 3 * scores
        case BlockKind.FFN:
            return before * block.width_in * (5 + 2 * block.mlp_ratio)
        case BlockKind.HEAD:
            return before * (block.width_in + 2 * mid) + 2 * block.hidden + block.classes

"""The operators of every block that have weights or multiply-accumulates; all costs are sums over them.

The shapes follow the network as built (reference architecture, section 2.3). A test compares them with torch's FLOP
counter on `Net(arch)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from elasticvit.archs.arch import HEAD_DIM, Arch
from elasticvit.costs.blocks import Block, BlockKind, blocks


class OpKind(StrEnum):
    CONV = "conv"
    DEPTHWISE = "depthwise"
    LINEAR = "linear"
    MATMUL = "matmul"
    NORM = "norm"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Op:
    """One operator: multiply-accumulates for one image, and trainable parameters."""

    kind: OpKind
    name: str
    macs: int
    params: int


def trace(arch: Arch) -> tuple[Op, ...]:
    """Every operator of a network, block by block."""
    return tuple(op for block in blocks(arch) for op in block_ops(block))


@lru_cache(maxsize=65_536)
def block_ops(block: Block) -> tuple[Op, ...]:
    """The operators of one block."""
    match block.kind:
        case BlockKind.FIRST_CONV:
            return tuple(_conv_bn("first_conv", 3, block.width_out, block.side_out, 9))
        case BlockKind.CONV | BlockKind.DOWNSAMPLE:
            return tuple(_mobile(block))
        case BlockKind.ATTENTION:
            return tuple(_attention(block))
        case BlockKind.FFN:
            return tuple(_ffn(block))
        case BlockKind.HEAD:
            return tuple(_head(block))


def _conv_bn(name: str, width_in: int, width_out: int, side: int, taps: int = 1) -> Iterator[Op]:
    weights = taps * width_in * width_out
    yield Op(OpKind.CONV, name, weights * side**2, weights)
    yield Op(OpKind.NORM, f"{name}_bn", 0, 2 * width_out)


def _linear(name: str, width_in: int, width_out: int, rows: int, bias: bool = True) -> Op:
    return Op(OpKind.LINEAR, name, rows * width_in * width_out, width_in * width_out + bias * width_out)


def _mobile(b: Block) -> Iterator[Op]:
    mid = b.expand * b.width_in
    if b.expand > 1:
        yield from _conv_bn("expand", b.width_in, mid, b.side_in)
    yield Op(OpKind.DEPTHWISE, "depthwise", mid * b.kernel**2 * b.side_out**2, mid * b.kernel**2)
    yield Op(OpKind.NORM, "depthwise_bn", 0, 2 * mid)
    if b.squeeze:
        yield _linear("squeeze_reduce", mid, mid // 4, 1)
        yield _linear("squeeze_expand", mid // 4, mid, 1)
    yield from _conv_bn("project", mid, b.width_out, b.side_out)
    if b.width_in != b.width_out:
        weights = b.width_in * b.width_out
        yield Op(OpKind.CONV, "shortcut", weights * b.side_out**2, weights)


def _attention(b: Block) -> Iterator[Op]:
    width, tokens, heads = b.width_in, b.side_in**2, b.width_in // HEAD_DIM
    values = HEAD_DIM * b.v_scale * heads
    yield Op(OpKind.NORM, "norm", 0, 2 * width)
    yield _linear("qkv", width, 2 * width + values, tokens, bias=False)
    yield Op(OpKind.DEPTHWISE, "values_conv", 9 * tokens * values, 9 * values)
    yield Op(OpKind.MATMUL, "scores", heads * tokens**2 * HEAD_DIM, 0)
    yield Op(OpKind.TABLE, "position_bias", 0, heads * (2 * b.side_in - 1) ** 2)
    yield Op(OpKind.MATMUL, "mix", tokens**2 * values, 0)
    yield _linear("project", values, width, tokens)


def _ffn(b: Block) -> Iterator[Op]:
    width, tokens = b.width_in, b.side_in**2
    yield Op(OpKind.NORM, "norm", 0, 2 * width)
    yield _linear("expand", width, b.mlp_ratio * width, tokens)
    yield _linear("project", b.mlp_ratio * width, width, tokens)


def _head(b: Block) -> Iterator[Op]:
    wide = b.expand * b.width_in
    yield _linear("expand", b.width_in, wide, b.side_in**2)
    yield Op(OpKind.NORM, "expand_bn", 0, 2 * wide)
    yield _linear("hidden", wide, b.hidden, 1)
    yield _linear("classify", b.hidden, b.classes, 1)

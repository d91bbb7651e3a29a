"""An architecture as the sequence of its latency-bearing blocks.

A block's key is its name in the authors' latency tables of phones, so that measured latencies can be looked up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from elasticvit.archs.arch import (
    CONV_SQUEEZE,
    CONV_STRIDES,
    HEAD_EXPANSION,
    PAPER_CLASSES,
    REDUCTION_EXPANSION,
    VIT_STRIDES,
    Arch,
)


class BlockKind(StrEnum):
    FIRST_CONV = "first_conv"
    CONV = "conv"
    DOWNSAMPLE = "downsample"
    ATTENTION = "attention"
    FFN = "ffn"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a network. Sides are of the square grid before and after it; sizes that a kind does not have are 0."""

    kind: BlockKind
    side_in: int
    side_out: int
    width_in: int
    width_out: int
    stride: int = 1
    kernel: int = 0
    expand: int = 0
    squeeze: bool = False
    v_scale: int = 0
    mlp_ratio: int = 0
    hidden: int = 0
    classes: int = 0

    @property
    def key(self) -> str:
        """The key of the authors' latency tables; a head with other than 1000 classes has their number at its end."""
        hw, cin, cout, s = self.side_in, self.width_in, self.width_out, self.stride
        match self.kind:
            case BlockKind.FIRST_CONV:
                return f"firstconv_{hw}_3_{cout}_2_3"
            case BlockKind.CONV:
                squeeze = "se" if self.squeeze else "nose"
                return f"conv_{hw}_{cin}_{cout}_{self.expand}_{s}_hard_swish_{self.kernel}_{squeeze}"
            case BlockKind.DOWNSAMPLE:
                return f"transds_{hw}_{cin}_{cout}_{s}_{self.expand}"
            case BlockKind.ATTENTION:
                return f"transattn_{hw}_{cin}_hard_swish_{self.v_scale}_ln"
            case BlockKind.FFN:
                return f"transffn_{hw}_{cin}_{self.mlp_ratio}_hard_swish_ln"
            case BlockKind.HEAD:
                suffix = "" if self.classes == PAPER_CLASSES else f"_{self.classes}"
                return f"mbpool_{hw}_{cin}_{self.hidden}_{self.expand}_hard_swish{suffix}"


def first_conv(resolution: int, width: int) -> Block:
    """The 3×3 convolution with stride 2 from the image, `resolution` pixels per side, to `width` channels."""
    return Block(BlockKind.FIRST_CONV, resolution, resolution // 2, 3, width, 2, 3)


def conv(side: int, width_in: int, width_out: int, expand: int, kernel: int, stride: int, squeeze: bool) -> Block:
    """A MobileNet block on a grid of `side` × `side`.

    Args:
        expand: ratio of hidden channels to `width_in`.
        kernel: side of the depthwise kernel.
        squeeze: with squeeze and excitation.
    """
    return Block(BlockKind.CONV, side, halve(side, stride), width_in, width_out, stride, kernel, expand, squeeze)


def downsample(side: int, width_in: int, width_out: int, stride: int) -> Block:
    """The downsampling block before a transformer stage; with stride 1 it only changes the width."""
    return Block(
        BlockKind.DOWNSAMPLE, side, halve(side, stride), width_in, width_out, stride, 3, REDUCTION_EXPANSION, True
    )


def attention(side: int, width: int, v_scale: int) -> Block:
    """Attention over side² tokens of `width` channels; values are `v_scale` times as wide as queries."""
    return Block(BlockKind.ATTENTION, side, side, width, width, v_scale=v_scale)


def ffn(side: int, width: int, mlp_ratio: int) -> Block:
    """The feed-forward block of side² tokens, with mlp_ratio · `width` hidden channels."""
    return Block(BlockKind.FFN, side, side, width, width, mlp_ratio=mlp_ratio)


def head(side: int, width: int, hidden: int, classes: int) -> Block:
    """From the last grid, side² tokens of `width` channels, through `hidden` features to logits of `classes`."""
    return Block(BlockKind.HEAD, side, 1, width, classes, expand=HEAD_EXPANSION, hidden=hidden, classes=classes)


def halve(side: int, stride: int) -> int:
    """The side of the grid after a block: odd sides are rounded up."""
    return -(-side // stride)


@lru_cache(maxsize=4096)
def blocks(arch: Arch) -> tuple[Block, ...]:
    """The blocks of an architecture, first to last."""
    return tuple(_walk(arch))


def _walk(arch: Arch) -> Iterator[Block]:
    yield first_conv(arch.resolution, arch.stem.width)
    side, width = arch.resolution // 2, arch.stem.width
    for block in arch.stem.blocks:
        yield conv(side, width, width, 1, block.kernel, 1, False)
    for stage, stage_stride, squeeze in zip(arch.conv, CONV_STRIDES, CONV_SQUEEZE, strict=True):
        for i, block in enumerate(stage.blocks):
            stride = stage_stride if i == 0 else 1
            yield conv(side, width, stage.width, block.expand, block.kernel, stride, squeeze)
            side, width = halve(side, stride), stage.width
    for vit, stride in zip(arch.vit, VIT_STRIDES, strict=True):
        yield downsample(side, width, vit.width, stride)
        side, width = halve(side, stride), vit.width
        for layer in vit.layers:
            yield attention(side, width, layer.v_scale)
            yield ffn(side, width, layer.mlp_ratio)
    yield head(side, width, arch.hidden, arch.classes)

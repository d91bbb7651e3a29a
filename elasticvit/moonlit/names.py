"""What the authors' supernet calls its 690 tensors, how large they are, and what this package calls them.

Their supernet sizes every tensor by its own stage's largest width, so the first block of a stage stores more than any
network reads: `Entry.shape` is what they store, of which the leading part is ours. Every one of their blocks owns a
shortcut convolution; where a block's input is as wide as its output it is never run and has no name here. Source:
reference architecture, sections 2.4 and 2.5, of microsoft/Moonlit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from elasticvit.archs.arch import (
    CONV_SQUEEZE,
    CONV_STRIDES,
    HEAD_DIM,
    HEAD_EXPANSION,
    REDUCTION_EXPANSION,
    VIT_STRIDES,
    Arch,
)
from elasticvit.archs.space import paper
from elasticvit.costs.blocks import halve


class Weights(StrEnum):
    """Which of a checkpoint's two sets of weights: the moving average, or the model's own."""

    EMA = "ema"
    MODEL = "model"


class Index(StrEnum):
    """Which offsets the rows of a position-bias table belong to: those computed, or those a checkpoint stores."""

    RECOMPUTED = "recomputed"
    STORED = "stored"


class Kind(StrEnum):
    WEIGHT = "weight"
    INDEX = "index"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the authors' state dict. `name` is this package's; empty for an index and for unused tensors."""

    key: str
    shape: tuple[int, ...]
    name: str = ""
    kind: Kind = Kind.WEIGHT


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """All tensors of the authors' supernet, which is that of the paper's space."""
    return tuple(_walk(paper().largest()))


def _walk(arch: Arch) -> Iterator[Entry]:
    width = arch.stem.width
    yield Entry("first_conv.weight", (width, 3, 3, 3), "first_conv.conv.weight")
    yield from _norm("first_conv_bn", "first_conv.bn", width)
    for i, block in enumerate(arch.stem.blocks):
        yield from _mobile(f"conv_stem.layers.{i}.0", f"stem.{i}", width, block.expand, block.kernel, shortcut=False)
    for s, (conv, squeeze) in enumerate(zip(arch.conv, CONV_SQUEEZE, strict=True)):
        for i, block in enumerate(conv.blocks):
            key, name = f"feature_exactor.{s}.layers.{i}.0", f"conv.{s}.{i}"
            yield from _mobile(key, name, conv.width, block.expand, block.kernel, squeeze=squeeze, shortcut=i == 0)
    # The tables serve the largest grid; smaller ones use their centres.
    side = arch.resolution // 2 // 2 ** len(CONV_STRIDES)
    for s, (vit, stride) in enumerate(zip(arch.vit, VIT_STRIDES, strict=True)):
        side, stage, name = halve(side, stride), f"feature_exactor.{len(arch.conv) + s}.layers", f"vit.{s}"
        expand = REDUCTION_EXPANSION
        yield from _mobile(f"{stage}.0.reduction", f"{name}.reduction", vit.width, expand, 3, squeeze=True)
        for i, layer in enumerate(vit.layers):
            values = layer.v_scale * vit.width
            yield from _attention(f"{stage}.{2 * i}", f"{name}.attention.{i}", vit.width, values, side)
            yield from _ffn(f"{stage}.{2 * i + 1}", f"{name}.ffn.{i}", vit.width, layer.mlp_ratio * vit.width)
    width = arch.vit[-1].width
    wide = HEAD_EXPANSION * width
    yield from _affine("pre_head_0", "head.expand", wide, width)
    yield from _norm("pre_head_norm_0", "head.bn", wide)
    yield from _affine("pre_head_1", "head.hidden", arch.hidden, wide)
    yield from _affine("classifer", "head.classify", arch.classes, arch.hidden)


def _mobile(
    key: str, name: str, width: int, expand: int, kernel: int, *, squeeze: bool = False, shortcut: bool = True
) -> Iterator[Entry]:
    mid = expand * width
    if expand > 1:
        yield Entry(f"{key}.pw_conv.weight", (mid, width, 1, 1), f"{name}.expand.conv.weight")
        yield from _norm(f"{key}.pw_bn", f"{name}.expand.bn", mid)
    yield Entry(f"{key}.dw_conv.weight", (mid, 1, kernel, kernel), f"{name}.depthwise.conv.weight")
    yield from _norm(f"{key}.dw_bn", f"{name}.depthwise.bn", mid)
    if squeeze:
        yield from _affine(f"{key}.se_conv1", f"{name}.squeeze.reduce", mid // 4, mid, 1, 1)
        yield from _affine(f"{key}.se_conv2", f"{name}.squeeze.expand", mid, mid // 4, 1, 1)
    yield Entry(f"{key}.pwl_conv.weight", (width, mid, 1, 1), f"{name}.project.conv.weight")
    yield from _norm(f"{key}.pwl_bn", f"{name}.project.bn", width)
    ours, kind = (f"{name}.shortcut.weight", Kind.WEIGHT) if shortcut else ("", Kind.UNUSED)
    yield Entry(f"{key}.shortcut_conv.weight", (width, width, 1, 1), ours, kind)


def _attention(key: str, name: str, width: int, values: int, side: int) -> Iterator[Entry]:
    yield Entry(f"{key}.attention_bias", ((2 * side - 1) ** 2, width // HEAD_DIM), f"{name}.position_bias")
    yield Entry(f"{key}.relative_position_index", (side**2, side**2), kind=Kind.INDEX)
    yield Entry(f"{key}.qkv.weight", (2 * width + values, width), f"{name}.qkv.weight")
    yield from _affine(f"{key}.proj", f"{name}.project", width, values)
    yield Entry(f"{key}.dw_v_conv.weight", (values, 1, 3, 3), f"{name}.values_conv.weight")
    yield from _affine(f"{key}.norm1", f"{name}.norm", width)


def _ffn(key: str, name: str, width: int, mid: int) -> Iterator[Entry]:
    yield from _affine(f"{key}.norm1", f"{name}.norm", width)
    yield from _affine(f"{key}.fc1", f"{name}.expand", mid, width)
    yield from _affine(f"{key}.fc2", f"{name}.project", width, mid)


def _affine(key: str, name: str, *shape: int) -> Iterator[Entry]:
    yield Entry(f"{key}.weight", shape, f"{name}.weight")
    yield Entry(f"{key}.bias", shape[:1], f"{name}.bias")


def _norm(key: str, name: str, width: int) -> Iterator[Entry]:
    for field in ("weight", "bias", "running_mean", "running_var"):
        yield Entry(f"{key}.{field}", (width,), f"{name}.{field}")
    yield Entry(f"{key}.num_batches_tracked", (), f"{name}.num_batches_tracked")

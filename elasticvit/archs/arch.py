"""An architecture as a frozen, self-checking value.

The network it names (ElasticViT, supplement Table 5): a 3×3 stride-2 first convolution, a stem stage of MobileNetV2
blocks without expansion, two convolution stages (MobileNetV2, then MobileNetV3 blocks with squeeze-and-excitation),
four transformer stages, and a pooled head. Every block has its own sizes, so layer-wise architectures are possible; the
members of a `Space` are stage-wise.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from elasticvit.errors import ArchError

CONV_STRIDES = (2, 2)
CONV_SQUEEZE = (False, True)
VIT_STRIDES = (2, 1, 2, 2)
HEAD_DIM = 16
HEAD_EXPANSION = 6
REDUCTION_EXPANSION = 6
PAPER_HIDDEN = 1984
PAPER_CLASSES = 1000
# Far above any network of this family; a hostile request cannot ask for all of the memory.
MAX_WIDTH, MAX_DEPTH, MAX_RESOLUTION, MAX_CLASSES = 2048, 16, 1024, 100_000


def _check(name: str, value: object, low: int, high: int, multiple: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArchError(f"{name} must be a whole number, got {value!r}")
    if not low <= value <= high or value % multiple:
        step = f" and a multiple of {multiple}" if multiple > 1 else ""
        raise ArchError(f"{name} must be {low} to {high}{step}, got {value}")


@dataclass(frozen=True, slots=True)
class ConvBlock:
    """A MobileNet block: depthwise kernel side and expansion ratio."""

    kernel: int
    expand: int

    def __post_init__(self) -> None:
        _check("kernel", self.kernel, 3, 5)
        if self.kernel == 4:
            raise ArchError("kernel must be 3 or 5, got 4")
        _check("expand", self.expand, 1, 8)


@dataclass(frozen=True, slots=True)
class ConvStage:
    """MobileNet blocks of one output width."""

    width: int
    blocks: tuple[ConvBlock, ...]

    def __post_init__(self) -> None:
        _check("conv stage width", self.width, 4, MAX_WIDTH, 4)
        _check("conv stage depth", len(self.blocks), 1, MAX_DEPTH)


@dataclass(frozen=True, slots=True)
class VitLayer:
    """An attention and a feed-forward block: value width over query width, hidden width over width."""

    v_scale: int
    mlp_ratio: int

    def __post_init__(self) -> None:
        _check("v_scale", self.v_scale, 1, 8)
        _check("mlp_ratio", self.mlp_ratio, 1, 8)


@dataclass(frozen=True, slots=True)
class VitStage:
    """Transformer layers of one width behind one reduction; heads = width / 16."""

    width: int
    layers: tuple[VitLayer, ...]

    def __post_init__(self) -> None:
        _check("transformer stage width", self.width, HEAD_DIM, MAX_WIDTH, HEAD_DIM)
        _check("transformer stage depth", len(self.layers), 1, MAX_DEPTH)

    @property
    def heads(self) -> int:
        return self.width // HEAD_DIM


@dataclass(frozen=True, slots=True)
class Arch:
    """One network of the family. Raises `ArchError` if it cannot be built."""

    resolution: int
    stem: ConvStage
    conv: tuple[ConvStage, ConvStage]
    vit: tuple[VitStage, VitStage, VitStage, VitStage]
    hidden: int = PAPER_HIDDEN
    classes: int = PAPER_CLASSES

    def __post_init__(self) -> None:
        _check("resolution", self.resolution, 16, MAX_RESOLUTION, 16)
        _check("hidden", self.hidden, 1, 65_536)
        _check("classes", self.classes, 1, MAX_CLASSES)
        if (len(self.conv), len(self.vit)) != (len(CONV_STRIDES), len(VIT_STRIDES)):
            raise ArchError("an architecture has 2 conv stages and 4 transformer stages")
        if any(block.expand != 1 for block in self.stem.blocks):
            raise ArchError("stem blocks have expand 1")
        if any(block.expand == 1 for stage in self.conv for block in stage.blocks):
            raise ArchError("conv stage blocks need expand 2 or more")

    @property
    def id(self) -> str:
        """A short stable name: 12 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; equal architectures give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> "Arch":
        """Read what `to_json` wrote, as text or as a parsed object. Raises `ArchError`."""
        try:
            data = dict(json.loads(text) if isinstance(text, str) else text)
            head = {key: data.pop(key) for key in ("hidden", "classes") if key in data}
            resolution, stem, conv, vit = (data.pop(key) for key in ("resolution", "stem", "conv", "vit"))
            if data:
                raise ArchError(f"unknown field {sorted(data)[0]!r} in an architecture")
            a, b = (_conv_stage(stage) for stage in conv)
            w, x, y, z = (_vit_stage(stage) for stage in vit)
            return cls(resolution, _conv_stage(stem), (a, b), (w, x, y, z), **head)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ArchError(f"not an architecture: {error}; compare with GET /supernets or Arch.to_json()") from error

    @classmethod
    def from_moonlit(cls, lists: Sequence[Any], hidden: int = PAPER_HIDDEN, classes: int = PAPER_CLASSES) -> "Arch":
        """Read the authors' 10-list: resolution, channels[7], depths[7], conv ratios, kernels, MLP ratios, heads,
        windows, QK scales, V scales, each flat over layers. Heads are recomputed, as the authors' code does.

        Raises:
            ArchError: the lists do not describe an architecture.
        """
        try:
            resolution, widths, depths, ratios, kernels, mlps, heads, windows, scales, values = lists
            total_conv, total_vit = sum(depths[:3]), sum(depths[3:])
            lengths = [len(ratios), len(kernels), *map(len, (mlps, heads, windows, scales, values))]
            if min(depths) < 1:
                raise ArchError(f"the 10-list's depths must be 1 or more, got {min(depths)}")
            if len(widths) != 7 or len(depths) != 7 or lengths != [total_conv] * 2 + [total_vit] * 5:
                raise ArchError("the 10-list's lengths do not fit its depths")
            if any(value != 1 for value in chain(windows, scales)):
                raise ArchError("window and QK scale other than 1 are not part of this family")
            conv_blocks = iter([ConvBlock(k, e) for k, e in zip(kernels, ratios, strict=True)])
            layers = iter([VitLayer(v, m) for v, m in zip(values, mlps, strict=True)])
            stem, *conv = (
                ConvStage(w, tuple(next(conv_blocks) for _ in range(d)))
                for w, d in zip(widths[:3], depths[:3], strict=True)
            )
            vit = [
                VitStage(w, tuple(next(layers) for _ in range(d))) for w, d in zip(widths[3:], depths[3:], strict=True)
            ]
            return cls(resolution, stem, (conv[0], conv[1]), (vit[0], vit[1], vit[2], vit[3]), hidden, classes)
        except (TypeError, ValueError) as error:
            raise ArchError(f"not a 10-list: {error}") from error

    def to_moonlit(self) -> list[Any]:
        """The authors' 10-list; the head's sizes are not part of it."""
        conv = (self.stem, *self.conv)
        blocks = [block for stage in conv for block in stage.blocks]
        layers = [(stage.heads, layer) for stage in self.vit for layer in stage.layers]
        return [
            self.resolution,
            [stage.width for stage in (*conv, *self.vit)],
            [len(stage.blocks) for stage in conv] + [len(stage.layers) for stage in self.vit],
            [block.expand for block in blocks],
            [block.kernel for block in blocks],
            [layer.mlp_ratio for _, layer in layers],
            [heads for heads, _ in layers],
            [1] * len(layers),
            [1] * len(layers),
            [layer.v_scale for _, layer in layers],
        ]


def _conv_stage(data: Mapping[str, Any]) -> ConvStage:
    return ConvStage(**{**data, "blocks": tuple(ConvBlock(**block) for block in data["blocks"])})


def _vit_stage(data: Mapping[str, Any]) -> VitStage:
    return VitStage(**{**data, "layers": tuple(VitLayer(**layer) for layer in data["layers"])})


def arch_object(arch: Arch) -> dict[str, Any]:
    """The canonical JSON, parsed."""
    value: dict[str, Any] = json.loads(arch.to_json())
    return value

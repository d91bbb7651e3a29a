"""Costs that add up over blocks, as dense tables: from codes to totals without making a single architecture.

Within a stage of a stage-wise space only the first block differs from the others, so a stage costs
`first + (depth - 1) · other` and a whole network is a dozen array look-ups, whatever its depth. The same form gives the
exact minimum over the space: choices inside a stage are independent, and stages only meet in their widths.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.arch import CONV_SQUEEZE, CONV_STRIDES, VIT_STRIDES
from elasticvit.archs.space import Codes, ConvChoices, Space, VitChoices
from elasticvit.costs import blocks as b
from elasticvit.costs.blocks import Block, halve
from elasticvit.costs.flops import block_macs, block_paper_flops

Costs = NDArray[np.float64]
CostOf = Callable[[Sequence[Block]], Costs]


@dataclass(frozen=True)
class _Part:
    """A table over some positions of a code, times a count: 1, depth or depth - 1 (`depth_at` with `less`)."""

    table: Costs
    positions: tuple[int, ...]
    depths: Costs | None = None
    depth_at: int = -1

    @property
    def reads(self) -> frozenset[int]:
        """The positions of a code that this looks at."""
        return frozenset(self.positions if self.depths is None else (*self.positions, self.depth_at))

    def total(self, codes: Codes) -> Costs:
        cost = self.table[tuple(codes[:, at] for at in self.positions)]
        return cost if self.depths is None else cost * self.depths[codes[:, self.depth_at]]


@dataclass(frozen=True)
class CostTable:
    """Additive cost of every member of a space; make one with `build`."""

    space: Space
    parts: tuple[_Part, ...] = field(repr=False)

    @classmethod
    def build(cls, space: Space, cost_of: CostOf) -> "CostTable":
        """Cost every distinct block of the space once; `cost_of` gets them all in one call, in a stable order."""
        layout = _layout(space)
        distinct = list(dict.fromkeys(block for part in layout for block in part.grid))
        costs = np.asarray(cost_of(distinct), np.float64)
        if costs.shape != (len(distinct),):
            raise ValueError(f"cost_of must give one cost a block, got shape {costs.shape} for {len(distinct)} blocks")
        index = {block: i for i, block in enumerate(distinct)}
        parts = [
            _Part(
                costs[[index[block] for block in part.grid]].reshape(part.shape),
                part.positions,
                part.depths,
                part.depth_at,
            )
            for part in layout
        ]
        return cls(space, tuple(parts))

    @classmethod
    def of_macs(cls, space: Space) -> "CostTable":
        """MACs of one image; exact, since every sum stays below 2^53."""
        return cls.build(space, lambda blocks: np.array([float(block_macs(block)) for block in blocks]))

    @classmethod
    def of_paper_flops(cls, space: Space) -> "CostTable":
        """The paper's formula, exact whole numbers; a millionth of it equals `paper_mflops` to the last bit."""
        return cls.build(space, lambda blocks: np.array([float(block_paper_flops(block)) for block in blocks]))

    def total(self, codes: Codes) -> Costs:
        """Cost of every row of codes (n, D), shape (n,)."""
        total = np.zeros(len(codes))
        for part in self.parts:
            total += part.total(codes)
        return total

    @property
    def reads(self) -> frozenset[int]:
        """The positions of a code that the cost depends on."""
        return frozenset[int]().union(*(part.reads for part in self.parts))

    def of_stage(self, stage: int, within: Collection[int]) -> tuple["CostTable", "CostTable"]:
        """A stage's cost (0 the stem's, 6 the last's), in two: what depends on the positions `within` alone, and the
        rest. All stages together make the whole."""
        parts = [part for part in self.parts if _owner(part) == stage]
        inside, rest = (
            tuple(part for part in parts if (part.reads <= frozenset(within)) is wanted) for wanted in (True, False)
        )
        return CostTable(self.space, inside), CostTable(self.space, rest)

    def smallest(self) -> tuple[float, Codes]:
        """The exact minimum over the space and a code that has it, shape (D,): dynamic programming over widths."""
        return min((self._smallest_at(res) for res in range(len(self.space.resolutions))), key=lambda found: found[0])

    def _smallest_at(self, res: int) -> tuple[float, Codes]:
        # Every stage is searched whole for each pair of widths (before, own); then the pairs are chained.
        stages = [range(1 + 4 * s, 5 + 4 * s) for s in range(7)]
        code = np.zeros(len(self.space.dimensions), np.int8)
        code[0] = res
        ways: list[tuple[float, Codes]] = []
        for s, positions in enumerate(stages):
            widths = self.space.dimensions[positions[0]][1]
            parts = [p for p in self.parts if _owner(p) == s]
            inner = np.array(list(product(*(range(n) for n in self.space.sizes[list(positions)[1:]]))), np.int8)
            found: list[tuple[float, Codes]] = []
            for own, width in enumerate(widths):
                options = []
                for spent, path in ways or [(0.0, code)]:
                    if s and self.space.dimensions[positions[0] - 4][1][path[positions[0] - 4]] > width:
                        continue
                    trial = np.repeat(path[None], len(inner), axis=0)
                    trial[:, positions[0]] = own
                    trial[:, list(positions)[1:]] = inner
                    cost = spent + sum((p.total(trial) for p in parts), np.zeros(len(trial)))
                    at = int(cost.argmin())
                    options.append((float(cost[at]), trial[at]))
                if options:
                    found.append(min(options, key=lambda option: option[0]))
            ways = found
        return min(ways, key=lambda way: way[0])


@dataclass(frozen=True)
class _Grid:
    """Blocks of one part, flat, over the choices at `positions`."""

    grid: list[Block]
    shape: tuple[int, ...]
    positions: tuple[int, ...]
    depths: Costs | None = None
    depth_at: int = -1


def _owner(part: _Part) -> int:
    """The stage that a part belongs to: that of its last position (a part looks back one stage at most)."""
    return (max(part.positions) - 1) // 4


def _layout(space: Space) -> list[_Grid]:
    sides = _sides(space)
    parts = _stem_parts(space, sides[0])
    before = (space.stem.widths, 1)
    for s, (conv, stride, squeeze) in enumerate(zip(space.conv, CONV_STRIDES, CONV_SQUEEZE, strict=True)):
        parts += _conv_parts(conv, 5 + 4 * s, before, sides[s], stride, squeeze)
        before = (conv.widths, 5 + 4 * s)
    for s, (vit, stride) in enumerate(zip(space.vit, VIT_STRIDES, strict=True)):
        parts += _vit_parts(vit, 13 + 4 * s, before, sides[2 + s], stride)
        before = (vit.widths, 13 + 4 * s)
    heads = [b.head(side, width, space.hidden, space.classes) for side, width in product(sides[6], before[0])]
    return [*parts, _Grid(heads, (len(sides[6]), len(before[0])), (0, before[1]))]


def _sides(space: Space) -> list[list[int]]:
    """Input side of every stage behind the stem, and of the head, for each resolution."""
    sides = [[resolution // 2 for resolution in space.resolutions]]
    for stride in (*CONV_STRIDES, *VIT_STRIDES):
        sides.append([halve(side, stride) for side in sides[-1]])
    return sides


def _counts(depths: tuple[int, ...], less: int = 0) -> Costs:
    return np.array(depths, np.float64) - less


def _stem_parts(space: Space, sides: list[int]) -> list[_Grid]:
    stem = space.stem
    first = [b.first_conv(2 * side, width) for side, width in product(sides, stem.widths)]
    rest = [b.conv(side, w, w, e, k, 1, False) for side, w, k, e in product(sides, stem.widths, stem.kernels, (1,))]
    shape = (len(sides), len(stem.widths), len(stem.kernels))
    return [_Grid(first, shape[:2], (0, 1)), _Grid(rest, shape, (0, 1, 3), _counts(stem.depths), 2)]


def _conv_parts(
    conv: ConvChoices, at: int, before: tuple[tuple[int, ...], int], sides: list[int], stride: int, squeeze: bool
) -> list[_Grid]:
    inner = (conv.kernels, conv.expands)
    first = [
        b.conv(side, cin, cout, e, k, stride, squeeze)
        for side, cin, cout, k, e in product(sides, before[0], conv.widths, *inner)
    ]
    rest = [
        b.conv(halve(side, stride), c, c, e, k, 1, squeeze) for side, c, k, e in product(sides, conv.widths, *inner)
    ]
    shape = (len(sides), len(before[0]), len(conv.widths), len(conv.kernels), len(conv.expands))
    return [
        _Grid(first, shape, (0, before[1], at, at + 2, at + 3)),
        _Grid(rest, (shape[0], *shape[2:]), (0, at, at + 2, at + 3), _counts(conv.depths, 1), at + 1),
    ]


def _vit_parts(
    vit: VitChoices, at: int, before: tuple[tuple[int, ...], int], sides: list[int], stride: int
) -> list[_Grid]:
    down = [b.downsample(side, cin, cout, stride) for side, cin, cout in product(sides, before[0], vit.widths)]
    inside = [halve(side, stride) for side in sides]
    attention = [b.attention(side, c, v) for side, c, v in product(inside, vit.widths, vit.v_scales)]
    ffn = [b.ffn(side, c, m) for side, c, m in product(inside, vit.widths, vit.mlp_ratios)]
    lengths = (len(sides), len(before[0]), len(vit.widths))
    depths = _counts(vit.depths)
    return [
        _Grid(down, lengths, (0, before[1], at)),
        _Grid(attention, (lengths[0], lengths[2], len(vit.v_scales)), (0, at, at + 2), depths, at + 1),
        _Grid(ffn, (lengths[0], lengths[2], len(vit.mlp_ratios)), (0, at, at + 3), depths, at + 1),
    ]

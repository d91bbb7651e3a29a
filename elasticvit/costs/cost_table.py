"""Cost tables: costs that are sums over blocks, looked up by codes without building an architecture.

Within a stage of a stage-wise space only the first block differs from the rest, so a stage costs
`first + (depth - 1) · rest` and a whole network is a dozen array look-ups, whatever its depth. The same form gives the
exact minimum over the space: choices inside a stage are independent, and stages depend on each other only by their
widths.
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
class _Term:
    """Costs over some positions of a code, times a count: 1, or `depths` by the choice at `depth_at`."""

    costs: Costs
    positions: tuple[int, ...]
    depths: Costs | None = None
    depth_at: int = -1

    @property
    def reads(self) -> frozenset[int]:
        """The positions of a code that the cost depends on."""
        return frozenset(self.positions if self.depths is None else (*self.positions, self.depth_at))

    def total(self, codes: Codes) -> Costs:
        cost = self.costs[tuple(codes[:, at] for at in self.positions)]
        return cost if self.depths is None else cost * self.depths[codes[:, self.depth_at]]


@dataclass(frozen=True)
class CostTable:
    """An additive cost of every member of a space; `build` makes one."""

    space: Space
    terms: tuple[_Term, ...] = field(repr=False)

    @classmethod
    def build(cls, space: Space, cost_of: CostOf) -> "CostTable":
        """A cost table from a cost of blocks.

        Args:
            cost_of: called once with all n distinct blocks of the space, always in the same order; gives shape (n,).

        Raises:
            ValueError: it gives another shape.
        """
        layout = _layout(space)
        distinct = list(dict.fromkeys(block for term in layout for block in term.grid))
        costs = np.asarray(cost_of(distinct), np.float64)
        if costs.shape != (len(distinct),):
            raise ValueError(f"cost_of must give one cost per block, got {costs.shape} for {len(distinct)} blocks")
        index = {block: i for i, block in enumerate(distinct)}
        terms = [
            _Term(
                costs[[index[block] for block in term.grid]].reshape(term.shape),
                term.positions,
                term.depths,
                term.depth_at,
            )
            for term in layout
        ]
        return cls(space, tuple(terms))

    @classmethod
    def of_macs(cls, space: Space) -> "CostTable":
        """MACs of one image; exact, since every sum is below 2^53."""
        return cls.build(space, lambda blocks: np.array([float(block_macs(block)) for block in blocks]))

    @classmethod
    def of_paper_flops(cls, space: Space) -> "CostTable":
        """FLOPs by the paper's formula, exact integers: a million times `paper_mflops`."""
        return cls.build(space, lambda blocks: np.array([float(block_paper_flops(block)) for block in blocks]))

    def total(self, codes: Codes) -> Costs:
        """Cost of every row of codes (n, D), shape (n,)."""
        total = np.zeros(len(codes))
        for term in self.terms:
            total += term.total(codes)
        return total

    @property
    def reads(self) -> frozenset[int]:
        """The positions of a code that the cost depends on."""
        return frozenset[int]().union(*(term.reads for term in self.terms))

    def of_stage(self, stage: int, within: Collection[int]) -> tuple["CostTable", "CostTable"]:
        """The cost of a stage (0 is the stem, 6 the last), in two tables: the part that depends only on the positions
        `within`, and the rest. The tables of all stages sum to the whole cost."""
        terms = [term for term in self.terms if _owner(term) == stage]
        inside, rest = (
            tuple(term for term in terms if (term.reads <= frozenset(within)) is inner) for inner in (True, False)
        )
        return CostTable(self.space, inside), CostTable(self.space, rest)

    def smallest(self) -> tuple[float, Codes]:
        """The exact minimum over the space and a code that has it, shape (D,), by dynamic programming over widths."""
        return min((self._smallest_at(res) for res in range(len(self.space.resolutions))), key=lambda best: best[0])

    def _smallest_at(self, res: int) -> tuple[float, Codes]:
        # Every stage is searched exhaustively for each pair of widths (previous, own).
        stages = [range(1 + 4 * s, 5 + 4 * s) for s in range(7)]
        code = np.zeros(len(self.space.dimensions), np.int8)
        code[0] = res
        paths: list[tuple[float, Codes]] = []
        for s, positions in enumerate(stages):
            widths = self.space.dimensions[positions[0]][1]
            terms = [p for p in self.terms if _owner(p) == s]
            inner = np.array(list(product(*(range(n) for n in self.space.sizes[list(positions)[1:]]))), np.int8)
            extended: list[tuple[float, Codes]] = []
            for own, width in enumerate(widths):
                options = []
                for spent, path in paths or [(0.0, code)]:
                    if s and self.space.dimensions[positions[0] - 4][1][path[positions[0] - 4]] > width:
                        continue
                    trial = np.repeat(path[None], len(inner), axis=0)
                    trial[:, positions[0]] = own
                    trial[:, list(positions)[1:]] = inner
                    cost = spent + sum((p.total(trial) for p in terms), np.zeros(len(trial)))
                    at = int(cost.argmin())
                    options.append((float(cost[at]), trial[at]))
                if options:
                    extended.append(min(options, key=lambda option: option[0]))
            paths = extended
        return min(paths, key=lambda path: path[0])


@dataclass(frozen=True)
class _Grid:
    """The blocks of one term, flat, over the choices at `positions`."""

    grid: list[Block]
    shape: tuple[int, ...]
    positions: tuple[int, ...]
    depths: Costs | None = None
    depth_at: int = -1


def _owner(term: _Term) -> int:
    """The stage of a term: that of its last position (a term depends on its own stage and the one before)."""
    return (max(term.positions) - 1) // 4


def _layout(space: Space) -> list[_Grid]:
    sides = _sides(space)
    terms = _stem_terms(space, sides[0])
    before = (space.stem.widths, 1)
    for s, (conv, stride, squeeze) in enumerate(zip(space.conv, CONV_STRIDES, CONV_SQUEEZE, strict=True)):
        terms += _conv_terms(conv, 5 + 4 * s, before, sides[s], stride, squeeze)
        before = (conv.widths, 5 + 4 * s)
    for s, (vit, stride) in enumerate(zip(space.vit, VIT_STRIDES, strict=True)):
        terms += _vit_terms(vit, 13 + 4 * s, before, sides[2 + s], stride)
        before = (vit.widths, 13 + 4 * s)
    heads = [b.head(side, width, space.hidden, space.classes) for side, width in product(sides[6], before[0])]
    return [*terms, _Grid(heads, (len(sides[6]), len(before[0])), (0, before[1]))]


def _sides(space: Space) -> list[list[int]]:
    """Input side of every stage after the stem, and of the head, for each resolution."""
    sides = [[resolution // 2 for resolution in space.resolutions]]
    for stride in (*CONV_STRIDES, *VIT_STRIDES):
        sides.append([halve(side, stride) for side in sides[-1]])
    return sides


def _counts(depths: tuple[int, ...], less: int = 0) -> Costs:
    return np.array(depths, np.float64) - less


def _stem_terms(space: Space, sides: list[int]) -> list[_Grid]:
    stem = space.stem
    first = [b.first_conv(2 * side, width) for side, width in product(sides, stem.widths)]
    rest = [b.conv(side, w, w, e, k, 1, False) for side, w, k, e in product(sides, stem.widths, stem.kernels, (1,))]
    shape = (len(sides), len(stem.widths), len(stem.kernels))
    return [_Grid(first, shape[:2], (0, 1)), _Grid(rest, shape, (0, 1, 3), _counts(stem.depths), 2)]


def _conv_terms(
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


def _vit_terms(
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

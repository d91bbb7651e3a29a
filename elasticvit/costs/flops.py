"""MACs and parameters of networks and blocks, exact; and the published formula, which differs slightly.

`macs` counts the convolutions and matrix products of the network as built (batch 1). `paper_mflops` is the number that
the paper and the authors' code give for an architecture; its docstring lists the differences.
"""

from elasticvit.archs.arch import HEAD_DIM, Arch
from elasticvit.costs.blocks import Block, BlockKind, blocks
from elasticvit.costs.ops import block_ops, trace


def macs(arch: Arch) -> int:
    """Multiply-accumulates of one image through the network as built."""
    return sum(op.macs for op in trace(arch))


def params(arch: Arch) -> int:
    """Trainable parameters of the network, position-bias tables counted at the size of their own grid."""
    return sum(op.params for op in trace(arch))


def block_macs(block: Block) -> int:
    """Multiply-accumulates of one image through a block; those of a network's blocks sum to `macs`."""
    return sum(op.macs for op in block_ops(block))


def block_params(block: Block) -> int:
    """Trainable parameters of a block; those of a network's blocks sum to `params`."""
    return sum(op.params for op in block_ops(block))


def paper_mflops(arch: Arch) -> float:
    """The authors' `compute_flops`, in MFLOPs (their word; they are MACs). Source: Moonlit, closed form re-derived.

    Against `macs` it

    - counts the depthwise convolution of the values once instead of nine times,
    - adds the softmax, one for every score,
    - leaves out squeeze-and-excitation and the shortcut of the reductions,
    - takes 2·side_out for the input side of a reduction, too large on odd grids (resolutions 160, 176 and 224),
    - counts a strided shortcut also where the widths are equal and the network has none.

    It equals the published number of every architecture, rounded or truncated, except for two: 517.1 for L1, published
    as 516, and 815.4 for L3, published as 806. No change of a single dimension of L3 gives 806; Table 5 of the
    supplement and the authors' configuration agree on its architecture, so the published number is wrong.
    """
    return sum(block_paper_flops(block) for block in blocks(arch)) / 1e6


def block_paper_flops(b: Block) -> int:
    """The FLOPs that the formula of `paper_mflops` counts for one block; an integer."""
    area = b.side_out**2
    match b.kind:
        case BlockKind.FIRST_CONV:
            return 27 * b.width_out * area
        case BlockKind.CONV:
            return _paper_conv(b, area)
        case BlockKind.DOWNSAMPLE:
            wide = b.expand * b.width_in
            return wide * b.width_in * (b.stride * b.side_out) ** 2 + wide * 9 * area + wide * b.width_out * area
        case BlockKind.ATTENTION:
            heads, values = b.width_in // HEAD_DIM, b.v_scale * b.width_in
            scores = (HEAD_DIM + 1) * heads * area**2 + values * area**2
            projections = b.width_in * (2 * HEAD_DIM * heads + values) + values * b.width_in
            return scores + area * projections + area * values
        case BlockKind.FFN:
            return 2 * area * b.width_in * (b.mlp_ratio * b.width_in)
        case BlockKind.HEAD:
            wide = b.expand * b.width_in
            return wide * b.width_in * b.side_in**2 + wide * b.hidden + b.hidden * b.classes


def _paper_conv(b: Block, area: int) -> int:
    mid = b.expand * b.width_in
    total = mid * b.kernel**2 * area + mid * b.width_out * area + b.squeeze * 2 * mid * (mid // 4)
    if b.expand > 1:
        total += b.width_in * mid * (b.stride * b.side_out) ** 2
    return total + (b.stride > 1) * b.width_in * b.width_out * area

"""MACs and parameters, exact; and the published formula, which is a little different.

`macs` is what the network does (convolutions and matrix products, batch 1). `paper_mflops` is the number the paper and
the authors' code give for an architecture; where the two part, and why, is in the docstring of `paper_mflops`.
"""

from elasticvit.arch import CONV_SQUEEZE, CONV_STRIDES, HEAD_DIM, HEAD_EXPANSION, VIT_STRIDES, Arch
from elasticvit.blocks import Block
from elasticvit.ops import block_ops, trace


def macs(arch: Arch | Block) -> int:
    """Multiply-accumulates of one image through the network (or block) as built."""
    return sum(op.macs for op in (trace(arch) if isinstance(arch, Arch) else block_ops(arch)))


def params(arch: Arch | Block) -> int:
    """Trainable numbers of the network (or block), position-bias tables counted at their own grid."""
    return sum(op.params for op in (trace(arch) if isinstance(arch, Arch) else block_ops(arch)))


def paper_mflops(arch: Arch) -> float:
    """The authors' `compute_flops`, in MFLOPs (their word; they are MACs). Source: Moonlit, closed form re-derived.

    Against `macs` it counts the values' depthwise convolution once instead of nine times, adds the softmax, leaves out
    squeeze-and-excitation and shortcut of the reductions, takes 2·side_out for the input side of a reduction (too
    large on odd grids), and counts a strided shortcut even where the widths are equal and none runs.
    """
    side, width = arch.resolution // 2, arch.stem.width
    total = 27 * width * side**2
    total += sum(width * side**2 * block.kernel**2 + width**2 * side**2 for block in arch.stem.blocks)
    for conv, stage_stride, squeeze in zip(arch.conv, CONV_STRIDES, CONV_SQUEEZE, strict=True):
        for i, block in enumerate(conv.blocks):
            stride = stage_stride if i == 0 else 1
            mid, before = block.expand * width, side
            side = -(-side // stride)
            total += width * mid * (before if stride == 1 else 2 * side) ** 2
            total += mid * block.kernel**2 * side**2 + mid * conv.width * side**2
            total += squeeze * 2 * mid * (mid // 4) + (width * conv.width * side**2 if stride > 1 else 0)
            width = conv.width
    for vit, stride in zip(arch.vit, VIT_STRIDES, strict=True):
        side = -(-side // stride)
        total += 6 * width**2 * (stride * side) ** 2 + 54 * width * side**2 + 6 * width * vit.width * side**2
        width, tokens, heads = vit.width, side**2, vit.heads
        for layer in vit.layers:
            values = HEAD_DIM * layer.v_scale * heads
            total += (HEAD_DIM + 1) * heads * tokens**2 + values * tokens**2
            total += width * tokens * (2 * HEAD_DIM * heads + values) + tokens * values * width + tokens * values
            total += 2 * tokens * width * (layer.mlp_ratio * width)
    wide = HEAD_EXPANSION * width
    total += wide * width * side**2 + wide * arch.hidden + arch.hidden * arch.classes
    return total / 1e6

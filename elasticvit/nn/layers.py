"""The layers of the network, plain modules of fixed sizes (reference architecture, section 2.3).

Shapes: B images, C channels, H = W = side, N = side² tokens (row-major), M heads of 16 query channels,
L value channels.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elasticvit.archs.arch import HEAD_DIM, HEAD_EXPANSION
from elasticvit.costs.blocks import Block, BlockKind
from elasticvit.nn.depthwise import Depthwise
from elasticvit.nn.swish import norm_hardswish


class ConvBn(nn.Module):
    """Convolution without bias, dense or depthwise, then batch norm and, if active, hard swish."""

    def __init__(self, conv: nn.Conv2d, active: bool) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return norm_hardswish(self.bn, x) if self.active else self.bn(x)


def _dense(width_in: int, width_out: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, bias=False)


class SqueezeExcite(nn.Module):
    """Channel gates from the pooled map: reduce to a quarter, ReLU, expand, hard sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 4, 1)
        self.expand = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * F.hardsigmoid(self.expand(gate))


class MobileBlock(nn.Module):
    """MobileNetV2/V3 block with a shortcut that is always added: (B, width_in, H, W) → (B, width_out, H', W').

    A strided block average-pools its shortcut (an odd side is padded by zeros that count); where the widths differ the
    shortcut goes through a 1×1 convolution without bias or norm.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        mid = block.expand * block.width_in
        self.block = block
        self.expand = ConvBn(_dense(block.width_in, mid), active=True) if block.expand > 1 else None
        self.depthwise = ConvBn(Depthwise(mid, block.kernel, block.stride), active=True)
        self.squeeze = SqueezeExcite(mid) if block.squeeze else None
        self.project = ConvBn(_dense(mid, block.width_out), active=False)
        self.shortcut = _dense(block.width_in, block.width_out) if block.width_in != block.width_out else None
        if block.stride == 1:
            # The block starts as its shortcut, which is how the authors start training.
            nn.init.zeros_(self.project.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x if self.expand is None else self.expand(x))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        if self.block.stride == 2:
            x = F.avg_pool2d(x, 2, padding=x.shape[-1] % 2)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return x + y  # type: ignore[no-any-return]


class ImageNorm(nn.Module):
    """Normalises over tokens and channels together, affine per channel; (B, N, C) → (B, N, C).

    The authors' `LNSuper`; equal to GroupNorm with one group, and not a LayerNorm per token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[1:], eps=self.eps), self.weight)


@lru_cache(maxsize=64)
def relative_index(side: int, device: torch.device) -> Tensor:
    """Index of (query, key) into a flattened (2·side-1)² table of offsets, shape (N, N)."""
    # The cache outlives the caller's mode: a tensor made in inference mode could never serve training.
    with torch.inference_mode(False), torch.device("cpu"):
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        dy = rows.flatten()[:, None] - rows.flatten() + side - 1
        dx = columns.flatten()[:, None] - columns.flatten() + side - 1
        return (dy * (2 * side - 1) + dx).to(device)


class Attention(nn.Module):
    """Multi-head attention whose values pass a depthwise 3×3 convolution; residual added. (B, N, C) → (B, N, C).

    The rows of `qkv` are read head by head (16 query, 16 key, then the value channels of head 0, of head 1, …), which
    is how the official weights are laid out.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        width, self.side = block.width_in, block.side_in
        self.heads = width // HEAD_DIM
        self.value_dim = HEAD_DIM * block.v_scale
        values = self.heads * self.value_dim
        self.norm = ImageNorm(width)
        self.qkv = nn.Linear(width, 2 * width + values, bias=False)
        self.values_conv = Depthwise(values, 3)
        self.position_bias = nn.Parameter(torch.zeros(self.heads, 2 * self.side - 1, 2 * self.side - 1))
        self.project = nn.Linear(values, width)
        if not self.position_bias.is_meta:
            nn.init.trunc_normal_(self.position_bias, std=0.02)

    def bias(self) -> Tensor:
        """The position bias of every pair, shape (M, N, N)."""
        # An exporter traces with symbolic tensors, which must not stay in a cache.
        index_of = relative_index.__wrapped__ if torch.compiler.is_compiling() else relative_index
        index = index_of(self.side, self.position_bias.device)
        # Gathering along one axis has a fast backward pass; indexing by a matrix has not.
        return self.position_bias.flatten(1).index_select(1, index.flatten()).view(-1, *index.shape)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        heads = self.qkv(self.norm(x)).view(batch, tokens, self.heads, -1)
        q, k, v = heads.split([HEAD_DIM, HEAD_DIM, self.value_dim], 3)
        v = v.reshape(batch, self.side, self.side, -1).permute(0, 3, 1, 2)
        v = self.values_conv(v).permute(0, 2, 3, 1).reshape(batch, tokens, self.heads, self.value_dim)
        scores = (q * HEAD_DIM**-0.5).transpose(1, 2) @ k.permute(0, 2, 3, 1) + self.bias()
        mixed = (scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).reshape(batch, tokens, -1)
        return x + self.project(F.hardswish(mixed))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linears around a hard swish, residual added. (B, N, C) → (B, N, C)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm = ImageNorm(block.width_in)
        self.expand = nn.Linear(block.width_in, block.mlp_ratio * block.width_in)
        self.project = nn.Linear(block.mlp_ratio * block.width_in, block.width_in)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.hardswish(self.expand(self.norm(x))))  # type: ignore[no-any-return]


class Head(nn.Module):
    """Widen, pool, classify: (B, N, C) → (B, classes)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        wide = HEAD_EXPANSION * block.width_in
        self.expand = nn.Linear(block.width_in, wide)
        self.bn = nn.BatchNorm1d(wide)
        self.hidden = nn.Linear(wide, block.hidden)
        self.classify = nn.Linear(block.hidden, block.classes)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        y = self.bn(self.expand(x).flatten(0, 1)).view(batch, tokens, -1)
        y = F.hardswish(self.hidden(F.hardswish(y).mean(1)))
        return self.classify(y)  # type: ignore[no-any-return]


def layer(block: Block) -> nn.Module:
    """The module of a block."""
    match block.kind:
        case BlockKind.FIRST_CONV:
            return ConvBn(_dense(block.width_in, block.width_out, block.kernel, block.stride), active=True)
        case BlockKind.CONV | BlockKind.DOWNSAMPLE:
            return MobileBlock(block)
        case BlockKind.ATTENTION:
            return Attention(block)
        case BlockKind.FFN:
            return FeedForward(block)
        case BlockKind.HEAD:
            return Head(block)

"""Our attention block and NASViT's, as torch modules that differ only in what the paper changed.

The paper's claim (supplement, section A.1, table 1): without talking heads and with hard swish instead of GELU, a block
takes less than half the time on a phone. NASViT (Gong et al., ICLR 2022) mixes heads linearly before and after
the softmax (Shazeer et al., "Talking-Heads Attention", 2020), has 8 channels a head and biases on its projections.
Both normalise over tokens and channels together, add a relative position bias, and pass the values through a
depthwise 3×3 convolution. For both, scales and shifts of norms and the scale of the queries are folded into the
weights, and the bias is already gathered.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE, V_SCALE = 14, 4
WIDTHS = (64, 96, 112)


@dataclass(frozen=True, slots=True)
class BlockKind:
    """Channels a head; whether and how heads are mixed: `linear` over the last axis, or as one matrix `product`."""

    head_dim: int
    mix: str | None


KINDS = {
    "NASViT": BlockKind(8, "linear"),
    "NASViT matmul": BlockKind(8, "product"),
    "ours 8": BlockKind(8, None),
    "ours 16": BlockKind(16, None),
}
BLOCKS = {f"attention {kind} {width}": (kind, width) for kind in KINDS for width in WIDTHS}


class AttentionBlock(nn.Module):
    """Maps (1, side, side, width) → the same, residual added."""

    def __init__(self, width: int, kind: BlockKind) -> None:
        super().__init__()
        self.heads, self.mix = width // kind.head_dim, kind.mix
        values = V_SCALE * width
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, values)
        self.values_conv = nn.Conv2d(values, values, 3, padding=1, groups=values, bias=False)
        self.position_bias = nn.Parameter(torch.randn(self.heads, SIDE**2, SIDE**2) * 0.02)
        self.before, self.after = nn.Linear(self.heads, self.heads), nn.Linear(self.heads, self.heads)
        self.project = nn.Linear(values, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = SIDE**2, x.shape[-1]
        centred = x - x.mean((1, 2, 3), keepdim=True)
        scale = torch.rsqrt((centred * centred).mean((1, 2, 3), keepdim=True) + 1e-5)
        y = (centred * scale).reshape(tokens, width)
        q, k = (part(y).reshape(1, tokens, self.heads, -1).permute(0, 2, 1, 3) for part in (self.q, self.k))
        v = self.values_conv(self.v(y).reshape(1, SIDE, SIDE, -1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        v = v.reshape(1, tokens, self.heads, -1).permute(0, 2, 1, 3)
        scores = q @ k.transpose(2, 3) + self.position_bias
        weights = self._mixed(self._mixed(scores, self.before).softmax(-1), self.after)
        mixed = (weights @ v).permute(0, 2, 1, 3).reshape(tokens, -1)
        active = F.hardswish(mixed) if self.mix is None else F.gelu(mixed)
        return x + self.project(active).reshape(x.shape)  # type: ignore[no-any-return]

    def _mixed(self, scores: Tensor, mix: nn.Linear) -> Tensor:
        """Every pair's scores (1, heads, N, N), as linear functions of those of all heads."""
        if self.mix is None:
            return scores
        heads, n = scores.shape[1], scores.shape[2]
        if self.mix == "linear":
            # Rows and not four axes: the converter makes no fully connected operator of the latter.
            rows: Tensor = mix(scores.permute(0, 2, 3, 1).reshape(n * n, heads))
            return rows.reshape(1, n, n, heads).permute(0, 3, 1, 2)
        return (mix.weight @ scores.reshape(heads, n * n) + mix.bias[:, None]).reshape(1, heads, n, n)


def attention_block(name: str) -> tuple[nn.Module, Tensor]:
    """A block of `BLOCKS` in eval mode with random weights, and an input."""
    kind, width = BLOCKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttentionBlock(width, KINDS[kind]).eval(), torch.randn(1, SIDE, SIDE, width)

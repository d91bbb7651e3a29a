"""The one network definition: `Net(arch)`. It knows nothing of supernets."""

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elasticvit.archs.arch import Arch
from elasticvit.costs.blocks import Block, blocks
from elasticvit.nn.layers import ConvBn, Head, MobileBlock, layer

Maker = Callable[[Block], nn.Module]


class VitStageNet(nn.Module):
    """A reduction, then attention and feed-forward in turn: (B, C, H, W) → (B, C', H', W')."""

    def __init__(self, down: Block, layers: list[tuple[Block, Block]], make: Maker) -> None:
        super().__init__()
        self.reduction = cast("MobileBlock", make(down))
        self.attention = nn.ModuleList(make(attention) for attention, _ in layers)
        self.ffn = nn.ModuleList(make(ffn) for _, ffn in layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduction(x)
        batch, width, side, _ = x.shape
        # In channels-last memory a map and its tokens are the same bytes, so neither step copies.
        tokens = x.permute(0, 2, 3, 1).reshape(batch, side * side, width)
        for attention, ffn in zip(self.attention, self.ffn, strict=True):
            tokens = ffn(attention(tokens))
        return tokens.view(batch, side, side, width).permute(0, 3, 1, 2)


class Net(nn.Module):
    """The plain network of an architecture: images (B, 3, H, W) of any size → logits (B, classes).

    Images of another size than `arch.resolution` are resized by bicubic interpolation, as the authors do in training
    and evaluation alike. Weights start as the authors start them. `make` may bring the modules of the blocks.
    """

    def __init__(self, arch: Arch, make: Maker = layer) -> None:
        super().__init__()
        self.arch = arch
        rest = iter(blocks(arch))
        self.first_conv = cast("ConvBn", make(next(rest)))
        self.stem = _stage(rest, len(arch.stem.blocks), make)
        self.conv = nn.ModuleList(_stage(rest, len(stage.blocks), make) for stage in arch.conv)
        self.vit = nn.ModuleList(
            VitStageNet(next(rest), [(next(rest), next(rest)) for _ in stage.layers], make) for stage in arch.vit
        )
        self.head = cast("Head", make(next(rest)))

    def forward(self, images: Tensor) -> Tensor:
        x = sized(images, self.arch.resolution)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.first_conv(x)
        for stage in (self.stem, *self.conv):
            for block in stage:
                x = block(x)
        for vit in self.vit:
            x = vit(x)
        return self.head(x.permute(0, 2, 3, 1).flatten(1, 2))  # type: ignore[no-any-return]


def sized(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, H, W) as a network of that side sees them, by bicubic interpolation where they are of another."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=side, mode="bicubic", align_corners=False)


def _stage(rest: Iterator[Block], depth: int, make: Maker) -> nn.ModuleList:
    return nn.ModuleList(make(next(rest)) for _ in range(depth))


def randomise_norms(net: Net, generator: torch.Generator) -> None:
    """Give every norm random, non-zero scales, shifts and statistics, in place.

    A freshly built network has zero scales in its stride-1 blocks, so an exporter may fold whole blocks away; such a
    network must never be timed.
    """

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.empty(like.shape).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if ".bn." in name or ".norm." in name:
                low, high = (0.5, 1.5) if name.endswith("weight") else (-0.2, 0.2)
                tensor.copy_(uniform(tensor, low, high))
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(uniform(buffer, -0.2, 0.2))
            elif name.endswith("running_var"):
                buffer.copy_(uniform(buffer, 0.5, 1.5))

"""Augmentation on batches of tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """How far an image may be moved: rotation in degrees, shift as a part of the side, scale as a part of the size."""

    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each of the images (B, 3, H, W) rotated, shifted and scaled by its own amounts; borders are repeated."""
        if not (self.rotate or self.shift or self.scale):
            return images
        amounts = torch.rand(len(images), 4, generator=generator) * 2 - 1
        angle = torch.deg2rad(self.rotate * amounts[:, 0])
        size = 1 / (1 + self.scale * amounts[:, 1])
        # A grid runs from -1 to 1, so a shift by a whole side is 2.
        moved = 2 * self.shift * amounts[:, 2:]
        cos, sin = size * angle.cos(), size * angle.sin()
        theta = torch.stack([cos, -sin, moved[:, 0], sin, cos, moved[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

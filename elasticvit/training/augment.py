"""Augmentation on batches of tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """How far an image may be changed: rotation in degrees, shift as a part of the side, scale as a part of the size;
    a crop of the image padded by so many mirrored pixels; a flip from left to right, half the time."""

    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    crop: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each of the images (B, 3, H, W) changed by its own amounts."""
        if self.crop:
            images = cropped(images, self.crop, generator)
        if self.flip:
            images = torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, images.flip(3), images)
        if self.rotate or self.shift or self.scale:
            images = self._moved(images, generator)
        return images

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Rotated, shifted and scaled; borders are repeated."""
        amounts = torch.rand(len(images), 4, generator=generator) * 2 - 1
        angle = torch.deg2rad(self.rotate * amounts[:, 0])
        size = 1 / (1 + self.scale * amounts[:, 1])
        # A grid runs from -1 to 1, so a shift by a whole side is 2.
        moved = 2 * self.shift * amounts[:, 2:]
        cos, sin = size * angle.cos(), size * angle.sin()
        theta = torch.stack([cos, -sin, moved[:, 0], sin, cos, moved[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def cropped(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """A window of each image's own size out of the image mirrored at its borders, moved by up to `pixels` a way.

    Whole pixels only: nothing is blurred, so training sees images as sharp as evaluation does.
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4, mode="reflect")
    moves = torch.randint(0, 2 * pixels + 1, (2, batch, 1), generator=generator)
    rows, columns = moves[0] + torch.arange(height), moves[1] + torch.arange(width)
    at = torch.arange(batch)[:, None, None]
    return padded[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

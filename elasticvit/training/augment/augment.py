"""Augmentation on batches of tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.training.augment.randaugment import randaugment

Range = tuple[float, float]
Triple = tuple[float, float, float]

TRIES = 10
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augment:
    """Maximum changes of an image: rotation in degrees, shift as a fraction of the side, scale as a fraction of the
    size; `crop`: mirrored pixels added on each side before a random crop; a horizontal flip, half of the time.

    The order is: resized crop, crop, flip, rotation with shift and scale, RandAugment, erasing.
    """

    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    crop: int = 0
    flip: bool = False
    resized_crop: Range | None = None
    """A crop with this fraction of the image's area, resized to its size (Szegedy et al. 2015); usually (0.08, 1)."""
    ratio: Range = (3 / 4, 4 / 3)
    """Ratio of width to height of the resized crop."""
    randaugment: tuple[int, float] | None = None
    """Number of operations per image, and their magnitude from 0 to 10; see `randaugment`."""
    randaugment_spread: float = 0.0
    """Standard deviation of the magnitude from image to image."""
    randaugment_chance: float = 1.0
    """Probability of each operation."""
    erasing: float = 0.0
    """With this probability a rectangle of 2 to 33 % of the image becomes noise (Zhong et al. 2017)."""
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    """The scaling of the `ImageSet`; RandAugment works on unscaled values."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment each of the scaled images (B, 3, H, W) by its own amounts; random numbers are drawn on the CPU."""
        if self.resized_crop:
            images = resized_cropped(images, self.resized_crop, self.ratio, generator)
        if self.crop:
            images = cropped(images, self.crop, generator)
        if self.flip:
            flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(flipped.to(images.device), images.flip(3), images)
        if self.rotate or self.shift or self.scale:
            images = self._moved(images, generator)
        if self.randaugment:
            images = self._randaugmented(images, *self.randaugment, generator)
        if self.erasing:
            images = erased(images, self.erasing, generator)
        return images

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Rotated, shifted and scaled; borders are repeated."""
        amounts = torch.rand(len(images), 4, generator=generator) * 2 - 1
        angle = torch.deg2rad(self.rotate * amounts[:, 0])
        size = 1 / (1 + self.scale * amounts[:, 1])
        # A grid runs from -1 to 1, so a shift by a whole side is 2.
        moved = 2 * self.shift * amounts[:, 2:]
        cos, sin = size * angle.cos(), size * angle.sin()
        return _sampled(images, torch.stack([cos, -sin, moved[:, 0], sin, cos, moved[:, 1]], dim=1))

    def _randaugmented(self, images: Tensor, ops: int, magnitude: float, generator: torch.Generator) -> Tensor:
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        seen = (images * std + mean).clamp(0, 1)
        seen = randaugment(seen, ops, magnitude, generator, self.randaugment_spread, self.randaugment_chance)
        return (seen - mean) / std


def cropped(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image, mirrored at its borders, shifted by up to `pixels` in each direction.

    Shifts are whole pixels, so training images are as sharp as those of evaluation.
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4, mode="reflect")
    moves = torch.randint(0, 2 * pixels + 1, (2, batch, 1), generator=generator)
    rows, columns = moves[0] + torch.arange(height), moves[1] + torch.arange(width)
    at = torch.arange(batch)[:, None, None]
    return padded[at, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def resized_cropped(images: Tensor, area: Range, ratio: Range, generator: torch.Generator) -> Tensor:
    """A random window of each image, with this fraction of its area and this ratio of width to height, resized
    (bilinear) to the image's size. A window that does not fit is drawn again, and finally cut."""
    batch, _, height, width = images.shape
    areas = _uniform(area, (TRIES, batch), generator)
    ratios = _uniform(_logs(ratio), (TRIES, batch), generator).exp()
    fractions = torch.stack([(areas * ratios * height / width).sqrt(), (areas / ratios * width / height).sqrt()])
    fits = (fractions <= 1).all(0)
    first = torch.where(fits.any(0), fits.int().argmax(0), 0)
    wide, high = fractions[:, first, torch.arange(batch)].clamp(max=1)
    x, y = (torch.rand(2, batch, generator=generator) * 2 - 1) * (1 - torch.stack([wide, high]))
    none = torch.zeros_like(wide)
    return _sampled(images, torch.stack([wide, none, x, none, high, y], dim=1))


def erased(images: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """With probability `chance` a random rectangle of an image is replaced by normal noise."""
    batch, channels, height, width = images.shape
    rows = (torch.rand(batch, generator=generator) < chance).nonzero().flatten()
    count = (len(rows), 1, 1)
    area = _uniform(ERASED_AREA, count, generator) * height * width
    ratio = _uniform(_logs(ERASED_RATIO), count, generator).exp()
    high, wide = ((area * ratio).sqrt().clamp(1, height), (area / ratio).sqrt().clamp(1, width))
    top, left = (
        torch.rand(count, generator=generator) * (side - size) for side, size in ((height, high), (width, wide))
    )
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    inside = (y >= top) & (y < top + high) & (x >= left) & (x < left + wide)
    noise = torch.randn(len(rows), channels, height, width, generator=generator).to(images)
    rows, images = rows.to(images.device), images.clone()
    images[rows] = torch.where(inside[:, None].to(images.device), noise, images[rows])
    return images


def _sampled(images: Tensor, theta: Tensor) -> Tensor:
    """By affine maps (B, 6) in coordinates from -1 to 1; borders are repeated."""
    grid = F.affine_grid(theta.view(-1, 2, 3).to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _uniform(between: Range, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = between
    return low + (high - low) * torch.rand(shape, generator=generator)


def _logs(between: Range) -> Range:
    low, high = torch.tensor(between).log().tolist()
    return low, high

"""RandAugment on batches of tensors: every image gets its own random operations, of fourteen, at one strength.

Source: Cubuk et al. 2020, "RandAugment". Images are (B, 3, H, W) with values from 0 (black) to 1 (white), strengths
(B, 1, 1, 1) from -1 to 1, a tenth of the paper's magnitude with a random sign. Operations at full strength:

    identity autocontrast equalize    the same at every strength
    rotate 30°; shear_x shear_y by 0.3 of the side; translate_x translate_y by 0.45 of the side; grey comes in
    posterize to 4 bits; solarize all values; brightness contrast colour sharpness by a factor of 1 ± 0.9

timm's sets, which the authors' code takes one of, have invert and solarize-add as well and no identity, leave out every
second operation (`chance` 0.5 here), let the magnitude vary (`spread` 0.5), and posterize further.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R 601)."""

Operation = Callable[[Tensor, Tensor], Tensor]


def randaugment(
    images: Tensor, ops: int, magnitude: float, generator: torch.Generator, spread: float = 0.0, chance: float = 1.0
) -> Tensor:
    """Each image changed by `ops` operations one after the other.

    Args:
        images: (B, 3, H, W) from 0 to 1.
        magnitude: from 0 to 10; `spread` is the standard deviation by which each image's differs from it.
        chance: probability of each operation.
    """
    images, batch = images.clone(), len(images)
    for _ in range(ops):
        chosen = torch.randint(len(OPERATIONS), (batch,), generator=generator)
        level = magnitude + spread * torch.randn(batch, generator=generator)
        sign, chances = torch.rand(2, batch, generator=generator)
        strength = (level / 10).clamp(0, 1) * torch.where(sign < 0.5, -1, 1)
        happens = chances < chance
        for i, operation in enumerate(OPERATIONS.values()):
            rows = ((chosen == i) & happens).nonzero().flatten().to(images.device)
            if len(rows):
                images[rows] = operation(images[rows], strength.to(images.device)[rows].view(-1, 1, 1, 1))
    return images


def identity(images: Tensor, _: Tensor) -> Tensor:
    return images


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to reach from 0 to 1; a constant channel is unchanged."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-12), images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's 256 levels spread so that all are about equally frequent; as Pillow does it, to the bit."""
    levels = (images * 255).round().clamp(0, 255).long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    new_levels = ((counts.cumsum(2) - counts + step // 2) // step.clamp_min(1)).clamp(0, 255)
    spread = torch.where(step > 0, new_levels.gather(2, levels), levels)
    return (spread / 255).to(images.dtype).view_as(images)


def rotate(images: Tensor, strength: Tensor) -> Tensor:
    """By 30 degrees at strength 1, the other way at -1."""
    angle = torch.deg2rad(30 * strength.flatten())
    return _moved(images, [angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0])


def shear_x(images: Tensor, strength: Tensor) -> Tensor:
    """Rows shifted in proportion to their distance from the centre, by 0.3 of it at full strength."""
    return _moved(images, [1, 0.3 * strength.flatten(), 0, 0, 1, 0])


def shear_y(images: Tensor, strength: Tensor) -> Tensor:
    """Like `shear_x`, for columns."""
    return _moved(images, [1, 0, 0, 0.3 * strength.flatten(), 1, 0])


def translate_x(images: Tensor, strength: Tensor) -> Tensor:
    """Shifted along the rows by 0.45 of the side at full strength."""
    return _moved(images, [1, 0, 2 * 0.45 * strength.flatten(), 0, 1, 0])


def translate_y(images: Tensor, strength: Tensor) -> Tensor:
    """Shifted along the columns by 0.45 of the side at full strength."""
    return _moved(images, [1, 0, 0, 0, 1, 2 * 0.45 * strength.flatten()])


def posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Only the leading bits of each byte: 8 at no strength, 4 at full."""
    step = 2 ** (4 * strength.abs()).round()
    return torch.where(step > 1, ((images * 255).round() / step).floor() * step / 255, images)


def solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Values above a threshold inverted: none at no strength, all at full."""
    return torch.where(images * 255 >= 256 * (1 - strength.abs()), 1 - images, images)


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    """Away from black, or towards it where the strength is negative."""
    return _away_from(torch.zeros_like(images), images, strength)


def contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Away from each image's mean grey, or towards it where the strength is negative."""
    return _away_from(_grey(images).mean((2, 3), keepdim=True), images, strength)


def colour(images: Tensor, strength: Tensor) -> Tensor:
    """Away from the grey image, or towards it where the strength is negative."""
    return _away_from(_grey(images), images, strength)


def sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Away from, or towards, the image smoothed over 3 × 3 pixels; the border stays."""
    kernel = torch.ones(3, 1, 3, 3, dtype=images.dtype, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=3)
    return _away_from(smooth, images, strength)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        identity,
        autocontrast,
        equalize,
        rotate,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        posterize,
        solarize,
        brightness,
        contrast,
        colour,
        sharpness,
    )
}


def _grey(images: Tensor) -> Tensor:
    return (images * torch.tensor(GREY, dtype=images.dtype, device=images.device).view(3, 1, 1)).sum(1, keepdim=True)


def _away_from(base: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """From the image away from `base` (or towards it, where the strength is below 0)."""
    return (base + (1 + 0.9 * strength) * (images - base)).clamp(0, 1)


def _moved(images: Tensor, rows: list[Tensor | float]) -> Tensor:
    """By affine maps given row by row, in coordinates from -1 to 1; grey comes in from outside."""
    like = next(row for row in rows if isinstance(row, Tensor))
    theta = torch.stack([torch.as_tensor(row, dtype=like.dtype, device=like.device).expand_as(like) for row in rows], 1)
    grid = F.affine_grid(theta.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images - 0.5, grid, padding_mode="zeros", align_corners=False) + 0.5

"""Labels as distributions, and images mixed with each other."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How the images of a batch are mixed with those of the same batch in reverse order.

    One way and one share a batch, as timm has it and the authors use it; batches are shuffled, so the reverse order is
    as random as any. `mixup` (Zhang et al. 2018) and `cutmix` (Yun et al. 2019) are the alphas of the Beta distribution
    that the share is drawn from, 0 for never. Raises `DataError` where those are negative or `switch` no probability.
    """

    mixup: float = 0.0
    """Images are added up, weighted by the share."""
    cutmix: float = 0.0
    """A rectangle is taken from the other image, as large as the other's share; cut at the border, with the share then
    what is really there."""
    switch: float = 0.5
    """Where both are on: how often it is cutmix."""

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or not 0 <= self.switch <= 1:
            raise DataError(f"mixup {self.mixup} and cutmix {self.cutmix} must be ≥ 0, switch {self.switch} in 0 to 1")

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, smoothing: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mixed images (B, 3, H, W), the same object where nothing is mixed, and their targets (B, classes), each a
        distribution of which a part `smoothing` is spread evenly."""
        targets = F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
        if not (self.mixup or self.cutmix):
            return images, targets
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        cut = rng.random() < (self.switch if self.mixup and self.cutmix else float(self.cutmix > 0))
        alpha = self.cutmix if cut else self.mixup
        share = rng.beta(alpha, alpha)
        if cut:
            images, share = cut_together(images, share, rng)
        else:
            images = share * images + (1 - share) * images.flip(0)
        return images, share * targets + (1 - share) * targets.flip(0)


def cut_together(images: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Images (B, 3, H, W), each with a rectangle out of its opposite number, the same for all, and the share of pixels
    that are still their own. The rectangle has a part `1 - share` of the area and any centre; the border cuts it."""
    height, width = images.shape[2:]
    high, wide = (round(side * (1 - share) ** 0.5) for side in (height, width))
    top, left = int(rng.integers(height)) - high // 2, int(rng.integers(width)) - wide // 2
    rows, columns = slice(max(top, 0), max(top + high, 0)), slice(max(left, 0), max(left + wide, 0))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    kept = 1 - mixed[0, 0, rows, columns].numel() / (height * width)
    return mixed, kept

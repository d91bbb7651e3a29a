"""Labels as distributions, and images mixed with each other."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Mixes the images of a batch with the same batch in reverse order.

    Every batch has one method and one share, as in timm and the authors' code; batches are shuffled, so the reverse
    order is random. `mixup` (Zhang et al. 2018) and `cutmix` (Yun et al. 2019) are the alphas of the Beta distribution
    of the share, 0 for never. Raises `DataError` if those are negative or `switch` is not a probability.
    """

    mixup: float = 0.0
    """Weighted mean of both images."""
    cutmix: float = 0.0
    """A rectangle with the other image's share of the area is taken from it. The border cuts it, and the share becomes
    the actual one."""
    switch: float = 0.5
    """Probability of cutmix if both are used."""

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or not 0 <= self.switch <= 1:
            raise DataError(f"mixup {self.mixup} and cutmix {self.cutmix} must be ≥ 0, switch {self.switch} in 0 to 1")

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, smoothing: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mixed images (B, 3, H, W), the same object if nothing is mixed, and targets (B, classes): distributions with
        label smoothing `smoothing`."""
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
    """Images (B, 3, H, W), each with a rectangle of the image at its reverse position, the same rectangle for all, and
    the share of pixels that are its own. The rectangle has the fraction `1 - share` of the area and any centre; the
    border cuts it."""
    height, width = images.shape[2:]
    high, wide = (round(side * (1 - share) ** 0.5) for side in (height, width))
    top, left = int(rng.integers(height)) - high // 2, int(rng.integers(width)) - wide // 2
    rows, columns = slice(max(top, 0), max(top + high, 0)), slice(max(left, 0), max(left + wide, 0))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images.flip(0)[:, :, rows, columns]
    kept = 1 - mixed[0, 0, rows, columns].numel() / (height * width)
    return mixed, kept

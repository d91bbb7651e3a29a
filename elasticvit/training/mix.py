"""Labels as distributions, and images mixed with each other."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How images of a batch are mixed. Nothing is mixed yet: only smoothed targets are made."""

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, smoothing: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and targets (B, classes)."""
        return images, F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes

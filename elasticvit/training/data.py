"""Labelled images in memory, by name.

Images are kept as bytes, (N, 3, H, W) uint8, and become numbers batch by batch. A set has three splits: `train` fits
the weights and recalibrates, `search` (held out) is what sub-networks are compared on, `val` is looked at once, for
the number that is published.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.errors import DataError

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, 3, H, W) uint8 and labels (N,) int64. Raises `DataError` where they do not fit each other."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise DataError(f"images must be (N, 3, H, W) bytes, got {tuple(self.images.shape)} {self.images.dtype}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"{len(self.images)} images need as many int64 labels, got {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set with its splits and its scaling: a network sees `(pixel / 255 - mean) / std`."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    search: Split
    val: Split
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)

    def scaled(self, images: Tensor) -> Tensor:
        """What a network sees of (N, 3, H, W) bytes."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images / 255 - mean) / std


def load_named(name: str) -> ImageSet:
    """The data set of this name, as a supernet file's card names it. Raises `DataError` listing the known names."""
    try:
        load = KNOWN[name]
    except KeyError:
        raise DataError(f"no data set named {name!r}; known: {', '.join(sorted(KNOWN))}") from None
    return load()


@lru_cache(maxsize=1)
def digits() -> ImageSet:
    """1,797 handwritten digits, 8×8 with 17 grey levels, enlarged once to 32×32.

    Source: the UCI test set of optical digits (Alpaydin and Kaynak, 1998), as it ships inside scikit-learn. Every class
    is split 60 / 20 / 20, always the same way.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    large = F.interpolate(grey, size=32, mode="bicubic", align_corners=False).round().clamp(0, 255).to(torch.uint8)
    images, labels = large.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(bunch.target).to(torch.int64)
    train, search, val = (
        Split(images[rows], labels[rows]) for rows in stratified(labels, (0.6, 0.2, 0.2), np.random.default_rng(1998))
    )
    return ImageSet("digits", tuple("0123456789"), train, search, val)


def stratified(labels: Tensor, fractions: tuple[float, ...], rng: np.random.Generator) -> list[Tensor]:
    """Row numbers of disjoint splits that together hold every row, each class shared out by `fractions`.

    Rows are shuffled, so that a leading part of a split is a fair sample of it.
    """
    parts: list[list[Tensor]] = [[] for _ in fractions]
    for label in torch.unique(labels):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.from_numpy(rng.permutation(len(rows)))]
        ends = np.rint(np.cumsum(fractions) / sum(fractions) * len(rows)).astype(int)
        for part, start, end in zip(parts, [0, *ends], ends, strict=False):
            part.append(rows[start:end])
    together = [torch.cat(part) for part in parts]
    return [rows[torch.from_numpy(rng.permutation(len(rows)))] for rows in together]


KNOWN: dict[str, Callable[[], ImageSet]] = {"digits": digits}

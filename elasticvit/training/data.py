"""Labelled images in memory, by name.

Images are kept as bytes, (N, 3, H, W) uint8, and become numbers batch by batch. A set has three splits: `train` fits
the weights and recalibrates, `search` (held out) is what sub-networks are compared on, `val` is looked at once, for
the number that is published.
"""

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

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


@lru_cache(maxsize=1)
def cifar10() -> ImageSet:
    """CIFAR-10 as Parquet files in the folder `cifar10-jpeg` of `ELASTICVIT_DATA`; the last tenth of every class of the
    training images is held out as `search`, the test images are `val`. Raises `DataError` where it is missing."""
    folder = data_folder() / "cifar10-jpeg"
    names = tuple(entry["name"] for entry in json.loads((folder / "labels.json").read_text("utf-8")))
    whole, val = (read_parquet(folder / f"{part}-00000-of-00001.parquet") for part in ("train", "test"))
    train, search = held_out(whole, 0.1)
    return ImageSet("cifar10", names, train, search, val)


def data_folder() -> Path:
    """Where image sets lie: `ELASTICVIT_DATA`, else the folder `data`."""
    return Path(os.environ.get("ELASTICVIT_DATA", "data"))


def read_parquet(path: Path) -> Split:
    """Images of one size from a Parquet file as Hugging Face writes it. Raises `DataError`."""
    import pyarrow.parquet
    from PIL import Image

    if not path.is_file():
        raise DataError(f"no image file {path}; set ELASTICVIT_DATA to the folder that holds {path.parent.name}")
    table = pyarrow.parquet.read_table(path)
    images = [
        np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table.column("image").to_pylist()
    ]
    labels = torch.tensor(table.column("label").to_pylist(), dtype=torch.int64)
    return Split(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), labels)


def held_out(split: Split, part: float) -> tuple[Split, Split]:
    """The split without, and only, the last part of each class; both shuffled, always the same way."""
    rng, kept, held = np.random.default_rng(0), [], []
    for label in torch.unique(split.labels):
        rows = (split.labels == label).nonzero().flatten()
        end = len(rows) - round(part * len(rows))
        kept.append(rows[:end])
        held.append(rows[end:])
    shuffled = [rows[torch.from_numpy(rng.permutation(len(rows)))] for rows in (torch.cat(kept), torch.cat(held))]
    first, second = (Split(split.images[rows], split.labels[rows]) for rows in shuffled)
    return first, second


KNOWN: dict[str, Callable[[], ImageSet]] = {"digits": digits, "cifar10": cifar10}

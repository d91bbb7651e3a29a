"""Labelled images by name or folder.

Images are kept as bytes, (N, 3, H, W) uint8, and become numbers batch by batch. A set has three disjoint splits:
`train` fits the weights and recalibrates; `search` chooses: sub-networks and quantization recipes are compared on it;
`val` trains nothing and chooses nothing, so every accuracy that is reported is measured on it.

Sets other than the digits are decoded once into files that are mapped into memory (`readers`): rows are read from the
disk when they are picked, so a set may be larger than memory.
"""

import hashlib
import json
import mmap
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.data.paths import check_no_file, is_folder
from elasticvit.data.readers import open_source
from elasticvit.data.readers.build import Built, Wanted, built
from elasticvit.data.readers.left_out import printable
from elasticvit.data.readers.patience import patient
from elasticvit.data.readers.source import names_beside
from elasticvit.errors import DataError
from elasticvit.progress import Report

Triple = tuple[float, float, float]
Held = Literal["search", "val"]
"""The splits that no weights are fitted to."""

MAX_SIDE = 4096
"""Pixels."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, 3, H, W) uint8 and labels (N,) int64. Raises `DataError` if they do not fit each other."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise DataError(f"images must be (N, 3, H, W) bytes, got {tuple(self.images.shape)} {self.images.dtype}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"{len(self.images)} images need as many int64 labels, got {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, most: int | None = None) -> Tensor:
        """Row numbers, rising: all, or `most` that are drawn at random, always the same. Splits that others made may
        be sorted by class, so that their first rows are no fair sample."""
        if most is None or most >= len(self):
            return torch.arange(len(self))
        drawn = np.random.default_rng(0).permutation(len(self))[:most]
        return torch.from_numpy(np.sort(drawn))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the labels and of the images; of more than 64 MB of images only every k-th counts."""
        content = hashlib.sha256(self.labels.numpy().tobytes())
        for image in self.images[:: max(1, self.images.numel() // 2**26)]:
            content.update(image.numpy().tobytes())
        return content.hexdigest()


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
    terms: str | None = None
    """Terms of use of the images, and so of models that were trained on them."""
    skipped: str | None = None
    """What is not used of the files: how many images could not be read, how many files have other endings, and so on,
    with the names of the first."""

    def fingerprint(self) -> dict[str, str]:
        """What a training run depends on: its classes by their names in order, and a digest of labels and images.

        Of more than 256 MB of training images only every k-th goes into the digest.
        """
        digest = hashlib.sha256()
        for split in (self.train, self.search, self.val):
            digest.update(split.labels.numpy().tobytes())
        images = self.train.images
        for image in images[:: max(1, images.numel() // 2**28)]:
            digest.update(image.numpy().tobytes())
        return {"classes": json.dumps(self.class_names), "images": f"{tuple(images.shape)} {digest.hexdigest()}"}

    def splits(self) -> dict[str, dict[str, int | str]]:
        """Which images were what, for the provenance of a supernet: number and digest of each split."""
        return {
            name: {"images": len(split), "sha256": split.digest}
            for name, split in (("train", self.train), ("search", self.search), ("val", self.val))
        }

    def scaled(self, images: Tensor) -> Tensor:
        """Scale images (N, 3, H, W) uint8 to what a network takes, on their device."""
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (images / 255 - mean) / std


def check_same_classes(data: ImageSet, names: Sequence[str], owner: str) -> None:
    """Raises `DataError` if the classes of a network, called `owner` in the message, are not those of the images."""
    if len(data.class_names) != len(names):
        raise DataError(f"{data.name} has {len(data.class_names)} classes, {owner} has {len(names)}")
    for number, (mine, theirs) in enumerate(zip(data.class_names, names, strict=True)):
        if mine != theirs:
            raise DataError(
                f"class {number} is {mine!r} in {data.name}, but {theirs!r} in {owner}: the same number means another "
                "class; give the classes their former names, or train again"
            )


def load_named(name: str, report: Report | None = None) -> ImageSet:
    """The data set of this name, as a supernet file's card names it, or of the folder at this path.

    Names are `digits`, `cifar10`, `flowers`, `tiny-imagenet` and `tiny-imagenet:CLASSES` (its first CLASSES labels).
    A path is looked for in the working directory, then in `ELASTICVIT_DATA`. `@SIDE` behind a name or a path, as in
    `photos@64`, is the side that images are resized and cut to.

    Args:
        report: is called while images are decoded; without, a bar appears on standard error after 2 s.

    Raises:
        DataError: the name is unknown, or the images are missing or cannot be used.
    """
    if name == "digits":
        return digits()
    if name != (shown := printable(name)):
        raise DataError(f"the name '{shown}' is not UTF-8, and files that are made of it have to be; rename the folder")
    match = re.fullmatch(r"(.*?)(?::(\d+))?(?:@(\d+))?", name, re.DOTALL)
    known, classes, side = match.groups() if match else (name, None, None)
    wanted = Wanted(side=_number(side, MAX_SIDE), classes=_number(classes, 10**6))
    with patient(report) as progress:
        if known == "tiny-imagenet":
            return _tiny_imagenet(name, wanted, progress)
        if known in FOLDERS and not classes:
            return _from(FOLDERS[known], name, data_folder() / FOLDERS[known].folder, wanted, progress)
        # A folder may itself be called photos@64.
        paths = [path for path in (name, name.rpartition("@")[0]) if path]
        for path in paths:
            for folder in (Path(path), data_folder() / path):
                if is_folder(folder):
                    of_path = None if path == name else _given_side(name, wanted)
                    return load_folder(folder, name=name, side=of_path, report=progress)
    for path in paths:
        check_no_file(Path(path))
    raise DataError(f"no data set named {name!r}; known: {', '.join(KNOWN)}, and any folder of images")


def load_folder(
    folder: Path, *, name: str | None = None, side: int | None = None, report: Report | None = None
) -> ImageSet:
    """An ImageFolder, Parquet files as Hugging Face writes them, or webdataset shards, by what is in the folder.

    The last tenth of every class of the training images is held out as `search`; without a labelled `val` or `test`,
    another tenth before that as `val`. What is not used is in `ImageSet.skipped`, and on standard error.

    Args:
        name: of the set, by default that of the folder.
        side: images are resized by their short side and cut to this square; by default squares of one size up to 256
            stay as they are, and anything else becomes 224.

    Raises:
        DataError: there are no images, a class has none, more than 5 % are unreadable, or the cache cannot be written.
    """
    with patient(report) as progress:
        name = name or folder.name
        return _mapped_set(built(open_source(folder), Wanted(side=side), name, progress), name)


def _given_side(name: str, wanted: Wanted) -> int:
    if wanted.side is None:
        given = name.rpartition("@")[2]
        raise DataError(f"{given!r} behind the @ of {name} is not a side in pixels, as in photos@64")
    return wanted.side


def _number(text: str | None, maximum: int) -> int | None:
    if text and not 0 < int(text[:20]) <= maximum:
        raise DataError(f"{text[:20]} is not a side or number of classes; it must be from 1 to {maximum}")
    return int(text) if text else None


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
    splits: list[list[Tensor]] = [[] for _ in fractions]
    for label in torch.unique(labels):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.from_numpy(rng.permutation(len(rows)))]
        ends = np.rint(np.cumsum(fractions) / sum(fractions) * len(rows)).astype(int)
        for split, start, end in zip(splits, [0, *ends], ends, strict=False):
            split.append(rows[start:end])
    together = [torch.cat(split) for split in splits]
    return [rows[torch.from_numpy(rng.permutation(len(rows)))] for rows in together]


@dataclass(frozen=True)
class Known:
    """A set of Parquet files in the folder `folder` of `ELASTICVIT_DATA`."""

    folder: str
    terms: str


FOLDERS = {
    "cifar10": Known(
        "cifar10-jpeg",
        "For research use: CIFAR-10 has no formal licence. Cite Krizhevsky, Learning Multiple Layers of Features from "
        "Tiny Images, 2009. Its images were drawn from the withdrawn 80 Million Tiny Images.",
    ),
    "flowers": Known(
        "flowers-demo-64",
        "Photographs from TensorFlow's flower_photos under CC BY 2.0, cut to 64×64: credit the photographers named in "
        "the set's ATTRIBUTION.csv, and say that the images were changed.",
    ),
    "tiny-imagenet": Known(
        "tiny-imagenet-200",
        "Tiny-ImageNet is a part of ImageNet, whose terms of access allow non-commercial research and education only. "
        "They hold for what is trained on it as well.",
    ),
}
KNOWN = ("digits", *sorted(FOLDERS), "tiny-imagenet:CLASSES")


def _tiny_imagenet(name: str, wanted: Wanted, report: Report) -> ImageSet:
    """200 classes of ImageNet at 64×64: 500 training and 50 validation images per class, labels by sorted id.

    Seven training images are, byte for byte, validation images of another class. They are left out of training, so that
    `val` stays the 10,000 images that others report on, and none of them was seen with a wrong label.
    """
    wanted = Wanted(side=wanted.side, classes=wanted.classes, distinct=True)
    return _from(FOLDERS["tiny-imagenet"], name, data_folder() / FOLDERS["tiny-imagenet"].folder, wanted, report)


def _from(known: Known, name: str, folder: Path, wanted: Wanted, report: Report) -> ImageSet:
    """With the class names of `labels.json`: those of the Parquet files may be ids."""
    if not folder.is_dir():
        called = re.split("[@:]", name)[0]
        own = f", or write ./{called} for the folder {called} here" if is_folder(Path(called)) else ""
        raise DataError(f"no folder {folder}; set ELASTICVIT_DATA to the folder that holds {known.folder}{own}")
    decoded = built(open_source(folder), wanted, name, report)
    names = (names_beside(folder) or decoded.class_names)[: len(decoded.class_names)]
    return _mapped_set(decoded, name, names, known.terms)


def built_in(name: str) -> str | None:
    """The built-in set that a name means, whatever folders there are; None for the name of a folder."""
    called = re.split("[@:]", name)[0]
    return called if called in KNOWN else None


def shadowed_folder(name: str) -> str | None:
    """A warning if a name means a built-in set although a folder here has that name, too."""
    called = built_in(name)
    if called is None or not is_folder(Path(called)):
        return None
    return f"'{called}' is the built-in set; for the folder {called} here, write ./{called}"


def data_folder() -> Path:
    """The folder of image sets: `ELASTICVIT_DATA`, else the folder `data`."""
    return Path(os.environ.get("ELASTICVIT_DATA", "data"))


@cache
def _report_skipped(_folder: Path, name: str, skipped: str) -> None:
    """On standard error, once a process for each decoded set."""
    sys.stderr.write(f"{printable(name)}: {skipped}\n")


def _mapped_set(decoded: Built, name: str, names: tuple[str, ...] | None = None, terms: str | None = None) -> ImageSet:
    if decoded.skipped:
        _report_skipped(decoded.folder, name, decoded.skipped)
    train, search, val = (
        Split(
            mapped(decoded.images(split), (decoded.rows[split], 3, decoded.side, decoded.side)),
            torch.from_numpy(np.load(decoded.labels(split))),
        )
        for split in ("train", "search", "val")
    )
    return ImageSet(name, names or decoded.class_names, train, search, val, terms=terms, skipped=decoded.skipped)


def mapped(file: Path, shape: tuple[int, ...]) -> Tensor:
    """Bytes of a file as a tensor of this shape, read from the disk when they are touched.

    The mapping is private: writing to the tensor does not change the file. No swap space is reserved for it, so that a
    set may be larger than memory.
    """
    unreserved = 0x4000 if sys.platform == "linux" else 0  # MAP_NORESERVE, which Python names from 3.13 on
    with file.open("rb") as opened:
        view = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE | unreserved, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(view, dtype=torch.uint8).view(shape)

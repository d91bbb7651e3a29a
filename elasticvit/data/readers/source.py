"""What every reader gives: encoded images with labels in a fixed order, and what identifies them.

A reader is opened by listing files alone, so that decoded images are found again at once; labels and images are read
only where they have to be decoded.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.errors import DataError

Labels = NDArray[np.int64]
Label = int | str
Named = tuple[str, bytes | Path]
"""What an image is called in reports, and its encoded bytes or the file that holds them."""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Part:
    """Images of one split: labels (N,), and a stream of the N encoded images in the same order, as often as wanted."""

    labels: Labels
    stream: Callable[[], Iterator[Named]]


@dataclass(frozen=True)
class Contents:
    """What a folder holds; without `val` some of `train` has to be held out for it."""

    class_names: tuple[str, ...]
    train: Part
    val: Part | None


@dataclass(frozen=True)
class Source:
    """A folder of images that was found but not read. `identity` changes with any of its files; `read` raises
    `DataError` where the files cannot be used."""

    identity: str
    read: Callable[[], Contents]


def identity(kind: str, folder: Path, files: Iterable[Path]) -> str:
    """A digest of the names below `folder`, sizes and times of change of files; moving the folder does not change it.

    Raises `DataError` where a file is gone; a link to nowhere counts as a file of its own.
    """
    digest = hashlib.sha256(kind.encode())
    for file in files:
        try:
            facts = file.stat()
        except FileNotFoundError:
            facts = file.lstat()
        name = file.relative_to(folder).as_posix()
        digest.update(f"\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def split_of(path: PurePath) -> str | None:
    """`train`, `val` or `test` where a word in a relative path says so, the outermost first."""
    words = (word for part in path.parts for word in re.split(r"[^a-z]+", part.lower()))
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def by_split(folder: Path, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files of `train` and of `val`, `test` in its place where there is no val; files that name no split train where
    none does. Raises `DataError` where nothing is left to train on."""
    groups: dict[str | None, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(split_of(file.relative_to(folder)), []).append(file)
    train = groups.get("train") or groups.get(None) or []
    if not train:
        raise DataError(f"no files to train on in {folder}: it holds {', '.join(file.name for file in files[:3])}")
    return train, groups.get("val") or groups.get("test") or []


def names_beside(folder: Path) -> tuple[str, ...] | None:
    """Class names by `labels.json` in the folder: a list of names, of `{"label", "name"}`, or `{"0": name}`.

    None where there is no such file. Raises `DataError` where it says something else.
    """
    path = folder / "labels.json"
    if not path.is_file():
        return None
    try:
        return tuple(_names(json.loads(path.read_text("utf-8"))))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f'{path} is no list of class names, nor of {{"label": 0, "name": "…"}}: {e}') from e


def _names(value: Any) -> list[str]:  # noqa: ANN401 - JSON from a stranger
    if isinstance(value, Mapping):
        value = [{"label": int(number), "name": name} for number, name in value.items()]
    if value and isinstance(value[0], Mapping):
        found = {int(entry["label"]): entry["name"] for entry in value}
        value = [found[number] for number in range(len(value))]
    if not value or not all(isinstance(name, str) for name in value):
        raise ValueError("names are missing")
    return list(value)


def numbered(values: Sequence[Label], names: tuple[str, ...]) -> Labels:
    """Labels (N,) of values that are numbers of classes or their names. Raises `DataError` on any other."""
    number = {name: i for i, name in enumerate(names)}
    found = [number.get(value, -1) if isinstance(value, str) else value for value in values]
    labels = np.array([value if 0 <= value < len(names) else -1 for value in found], dtype=np.int64)
    if len(wrong := np.flatnonzero(labels < 0)):
        raise DataError(f"label {values[wrong[0]]!r} of image {wrong[0]} is none of the {len(names)} classes")
    return labels


def names_in(values: Sequence[Label]) -> tuple[str, ...]:
    """Class names where nothing but the labels is known: the sorted names among them, else numbers up to the largest.

    Raises `DataError` where a number is larger than there are images, so that some class has none.
    """
    if values and all(isinstance(value, str) for value in values):
        return tuple(sorted({str(value) for value in values}))
    largest = max((value for value in values if isinstance(value, int)), default=-1)
    if largest >= len(values):
        raise DataError(f"there is a label {largest}, but only {len(values)} images; classes are numbered from 0")
    return tuple(map(str, range(1 + largest)))

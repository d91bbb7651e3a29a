"""What every reader gives: encoded images with labels in a fixed order, and what identifies them.

A reader is opened by listing files alone, so that decoded images are found again at once; labels and images are read
only when they have to be decoded.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.data.readers.left_out import LeftOut, printable
from elasticvit.errors import DataError

Labels = NDArray[np.int64]
Label = int | str
Named = tuple[str, bytes | Path]
"""The name of an image in reports, and its encoded bytes or the file that holds them."""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SPLIT_ORDER = ("train", "val", "test")
HELD_OUT = ("val", "test")
"""Splits that may serve as `val`, in order of preference."""
UNLABELLED = -1
"""The label of an image whose class is not published, as Hugging Face writes it."""
FROM_1 = "labels seem to begin at 1, but classes are numbered from 0; subtract 1 from every label"
UNREADABLE = (ValueError, RecursionError)
"""What a text of others raises that is no UTF-8, no JSON, nested too deep, or a number of too many digits."""


@dataclass(frozen=True)
class Part:
    """Images of one split: labels (N,), and a stream of the N encoded images in the same order, which can be read
    several times."""

    labels: Labels
    stream: Callable[[], Iterator[Named]]


@dataclass(frozen=True)
class Contents:
    """What a folder holds; without `val`, a part of `train` has to be held out for it."""

    class_names: tuple[str, ...]
    train: Part
    val: Part | None
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True)
class Source:
    """A folder of images that was listed but not read.

    `identity` changes with any of its files; `read` raises `DataError` if the files cannot be used; `left_out` is
    what the listing alone says is not used.
    """

    identity: str
    read: Callable[[], Contents]
    left_out: LeftOut = field(default_factory=LeftOut)


def identity(kind: str, folder: Path, files: Iterable[Path]) -> str:
    """A digest of the names below `folder`, sizes and modification times of files; moving the folder does not change
    it.

    Raises `DataError` if a file is gone; a link that leads nowhere, or back to itself, counts as a file of its own.
    """
    digest = hashlib.sha256(kind.encode("utf-8", "surrogateescape"))
    for file in files:
        facts = _facts(file)
        name = file.relative_to(folder).as_posix()
        digest.update(f"\0{name}\0{facts.st_size}\0{facts.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _facts(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError:
        with reading(file):
            return file.lstat()


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """`OSError` becomes `DataError`, so that nobody takes a file of the source for one of the cache."""
    try:
        yield
    except OSError as e:
        raise DataError(f"cannot read {printable(file)}: {e.strerror or e}") from e


def split_of(path: PurePath) -> str | None:
    """`train`, `val` or `test` if a word in a relative path says so, the outermost first."""
    names = (name for folder in path.parts for name in re.split(r"[^a-z]+", folder.lower()))
    return next((SPLITS[name] for name in names if name in SPLITS), None)


def by_split(folder: Path, files: Sequence[Path]) -> tuple[dict[str, list[Path]], LeftOut]:
    """Files of `train`, `val` and `test`, without the splits that have no file, and the files that are not used.

    Files that name no split are to train on if none names `train`. Raises `DataError` if nothing is left to train on.
    """
    groups: dict[str | None, list[Path]] = {}
    for file in sorted(files):
        groups.setdefault(split_of(file.relative_to(folder)), []).append(file)
    left_out, unnamed = LeftOut(), groups.pop(None, [])
    if "train" in groups:
        for file in unnamed:
            left_out.add("files that name no split beside files that name 'train'", printable(file.name))
    elif unnamed:
        groups["train"] = unnamed
    else:
        names = ", ".join(printable(file.name) for file in files[:3])
        raise DataError(f"no files to train on in {folder}: it holds {names}")
    return {str(split): group for split, group in groups.items()}, left_out


@dataclass(frozen=True)
class Rows:
    """All images of a split, labelled or not.

    Attributes:
        values: of each image its class's number or name, None without a label.
        name: of the image at a position, for messages.
        stream: all images, in the same order.
    """

    values: Sequence[Label | None]
    name: Callable[[int], str]
    stream: Callable[[], Iterator[Named]]


def labelled_contents(rows: Mapping[str, Rows], names: tuple[str, ...] | None, left_out: LeftOut) -> Contents:
    """The labelled images of splits; `val`, or else `test`, is the one of them that has labels.

    Args:
        rows: by split, `train` among them.
        names: of the classes; without, they follow from the labels of `train`.
        left_out: is added to.

    Raises:
        DataError: no image of `train` has a label, or a label is none of the classes.
    """
    train = rows["train"]
    known = [value for value in train.values if _is_label(value)]
    if not known:
        raise DataError(f"none of the {len(train.values)} images to train on has a label, the first is {train.name(0)}")
    names = names or names_in(known)
    val: Part | None = None
    for split in HELD_OUT:
        held = rows.get(split)
        if held is None or not held.values:
            continue
        if val is not None:
            left_out.add("images of 'test', since 'val' is used", held.name(0), len(held.values))
        elif any(_is_label(value) for value in held.values):
            val = _part(held, names, left_out)
        else:
            left_out.add(f"images of {split!r}, none of which has a label", held.name(0), len(held.values))
    return Contents(names, _part(train, names, left_out), val, left_out)


def _is_label(value: Label | None) -> bool:
    return value is not None and value not in (UNLABELLED, "")


def _part(rows: Rows, names: tuple[str, ...], left_out: LeftOut) -> Part:
    """The labelled rows."""
    mask = [_is_label(value) for value in rows.values]
    for i in (i for i, labelled in enumerate(mask) if not labelled):
        left_out.add("images without a label", rows.name(i))
    if all(mask):
        return Part(numbered(rows.values, names, rows.name), rows.stream)
    kept = list(compress(range(len(mask)), mask))
    labels = numbered([rows.values[i] for i in kept], names, lambda i: rows.name(kept[i]))
    return Part(labels, lambda: compress(rows.stream(), mask))


def check_class_names(names: Sequence[str]) -> None:
    """Raises `DataError` for names that go into models and their manifests, but do not distinguish classes or cannot
    be written: as UTF-8, or as a text that ends at its first zero."""
    for number, name in enumerate(names):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as e:
            shown = name.encode("utf-8", "backslashreplace").decode()
            raise DataError(f"the class name '{shown}' cannot be written as UTF-8; rename the class") from e
        if not name.strip():
            raise DataError(f"class {number} has no name; give it one")
        if "\0" in name:
            raise DataError(f"the class name {name!r} has a character of value 0; rename the class")
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{'two' if count == 2 else count} classes are called {name!r}; rename all but one")


def names_beside(folder: Path) -> tuple[str, ...] | None:
    """Class names by `labels.json` in the folder: a list of names, of `{"label", "name"}`, or `{"0": name}`.

    None if there is no such file. Raises `DataError` if it holds something else.
    """
    path = folder / "labels.json"
    if not path.is_file():
        return None
    try:
        # Of bytes, which may begin with a byte order mark.
        return tuple(_names(json.loads(path.read_bytes())))
    except (OSError, *UNREADABLE, KeyError, TypeError, OverflowError) as e:
        raise DataError(f'{path} is not a list of class names, nor of {{"label": 0, "name": "…"}}: {e}') from e


def _names(value: Any) -> list[str]:  # noqa: ANN401 - JSON of any shape
    if isinstance(value, Mapping):
        value = [{"label": int(number), "name": name} for number, name in value.items()]
    if value and isinstance(value[0], Mapping):
        by_number = {int(entry["label"]): entry["name"] for entry in value}
        value = [by_number[number] for number in range(len(value))]
    if not value or not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("names are missing")
    return list(value)


def numbered(values: Sequence[Label | None], names: tuple[str, ...], name: Callable[[int], str]) -> Labels:
    """Labels (N,) of values that are numbers of classes or their names.

    Raises `DataError` on any other, with the `name` of its image.
    """
    number = {class_name: i for i, class_name in enumerate(names)}
    labels = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        label = number.get(value) if isinstance(value, str) else value
        if label is None or not 0 <= label < len(names):
            hint = f"; {FROM_1}" if label == len(names) and 0 not in values else ""
            raise DataError(f"label {value!r} of {name(i)} is none of the {len(names)} classes{hint}")
        labels[i] = label
    return labels


def names_in(values: Sequence[Label | None]) -> tuple[str, ...]:
    """Class names if nothing but the labels is known: the sorted names among them, else numbers up to the largest.

    Raises `DataError` if a number is larger than there are images, or none is 0, so that some class has none.
    """
    if values and all(isinstance(value, str) for value in values):
        return tuple(sorted({str(value) for value in values}))
    numbers = [value for value in values if isinstance(value, int)]
    if min(numbers, default=0) == 1:
        raise DataError(FROM_1)
    largest = max(numbers, default=-1)
    if largest >= len(values):
        raise DataError(f"there is a label {largest}, but only {len(values)} images; classes are numbered from 0")
    return tuple(map(str, range(1 + largest)))

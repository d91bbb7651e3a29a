"""A folder for every class, as people keep ImageNet: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, or `CLASS/*.jpg`.

Classes are numbered in the order of their sorted names, as everybody does. Files may lie deeper in a class's folder.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from elasticvit.data.readers.source import SPLITS, Contents, Named, Part, Source, identity
from elasticvit.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif"})

Classes = dict[str, list[Path]]


def open_image_folder(folder: Path) -> Source:
    """Raises `DataError` where there are no class folders."""
    splits = {SPLITS[path.name.lower()]: path for path in _folders(folder) if path.name.lower() in SPLITS}
    if "train" in splits:
        held = splits.get("val") or splits.get("test")
        train, val = _classes(splits["train"]), _classes(held) if held else None
    else:
        train, val = _classes(folder), None
    files = [file for classes in (train, val or {}) for found in classes.values() for file in found]
    # An empty class is as much a fact as a file.
    kind = "\n".join(["image folder", *train, "", *(val or ())])
    return Source(identity(kind, folder, files), partial(_read, folder, train, val))


def _read(folder: Path, train: Classes, val: Classes | None) -> Contents:
    names = tuple(train)
    for name, files in train.items():
        if not files:
            raise DataError(f"no images in the class folder {name!r} of {folder}; add some or remove it")
    unknown = sorted(set(val or ()) - set(names))
    if unknown:
        raise DataError(f"val of {folder} holds {', '.join(map(repr, unknown[:3]))}, which train does not")
    return Contents(names, _part(folder, names, train), _part(folder, names, val) if val else None)


def _part(folder: Path, names: tuple[str, ...], classes: Classes) -> Part:
    number = {name: i for i, name in enumerate(names)}
    labels = [number[name] for name, files in classes.items() for _ in files]
    files = [file for found in classes.values() for file in found]

    def stream() -> Iterator[Named]:
        for file in files:
            yield file.relative_to(folder).as_posix(), file

    return Part(np.array(labels, dtype=np.int64), stream)


def _classes(folder: Path) -> Classes:
    """Image files by class, both sorted by name."""
    found = {path.name: _images(path) for path in _folders(folder)}
    if not any(found.values()):
        raise DataError(f"no class folders with images in {folder}; images belong into {folder}/CLASS/")
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as e:
        raise DataError(f"cannot list {folder}: {e.strerror}") from e


def _images(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {error.strerror}") from error

    found = []
    for base, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(base, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)

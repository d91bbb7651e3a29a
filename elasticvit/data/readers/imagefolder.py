"""A folder for every class, as ImageNet is usually kept: `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`, or `CLASS/*.jpg`.

Classes are numbered in the order of their sorted names, as torchvision's ImageFolder does. Files may lie deeper in a
class's folder. A folder called `train`, `val` or `test` is a split if it holds class folders, else a class. Classes of
`val` may also be in a text file (`annotations`).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from elasticvit.data.readers.annotations import ANNOTATIONS, IMAGES, annotated_classes
from elasticvit.data.readers.left_out import LeftOut, by_ending, listed, printable
from elasticvit.data.readers.source import HELD_OUT, SPLITS, Contents, Named, Part, Source, identity
from elasticvit.errors import DataError

SUFFIXES = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif png apng webp bmp gif tif tiff ppm pgm pbm pnm avif avifs".split()  # noqa: SIM905
)
"""Endings of the formats that are decoded (`decode.FORMATS`)."""
ARCHIVES = frozenset(
    f".{ending}"
    for ending in "tar tgz tbz tbz2 txz tzst gz bz2 xz zst lz4 zip 7z rar".split()  # noqa: SIM905
)
"""Endings of files that are unpacked into folders."""
CONTAINERS = ARCHIVES | {
    f".{ending}"
    for ending in "parquet arrow feather npy npz h5 hdf5 mat pkl lmdb tfrecord tfrecords".split()  # noqa: SIM905
}
"""Endings of files that may hold images."""

Classes = dict[str, list[Path]]


class NoClassFoldersError(DataError):
    """A folder holds no folder with images."""


def is_image(name: str) -> bool:
    """Whether a file name has the ending of an image."""
    return PurePath(name).suffix.lower() in SUFFIXES


def open_image_folder(folder: Path) -> Source:
    """Raises `NoClassFoldersError`, and `DataError` if it is not clear which folders are classes, or one has no images
    but files with other endings."""
    left_out = LeftOut()
    layout = _layout(folder)
    train = _classes(layout.train, folder, left_out, skip=layout.skip)
    annotations = _annotations(layout.val, train) if layout.val else None
    val = _val_classes(layout.val, annotations, folder, left_out) if layout.val else None
    for reason, unused in layout.unused:
        for image in _images(unused, folder, LeftOut()):
            left_out.add(reason, _name(image, folder))
    for inside in {folder, layout.train, layout.val or folder}:
        _loose(inside, folder, left_out)
    files = [file for classes in (train, val or {}) for images in classes.values() for file in images]
    files += [annotations] if annotations else []
    # An empty class is as much a fact as a file.
    kind = "\n".join(["image folder", *train, "", *(val or ())])
    read = partial(_read, folder, train, val, annotations or layout.val)
    return Source(identity(kind, folder, files), read, left_out)


def _annotations(val: Path, train: Classes) -> Path | None:
    """The file with the classes of images that lie in one folder, which is itself no class."""
    file = val / ANNOTATIONS
    is_used = file.is_file() and IMAGES not in train and [path.name for path in _folders(val)] == [IMAGES]
    return file if is_used else None


def _val_classes(val: Path, annotations: Path | None, root: Path, left_out: LeftOut) -> Classes:
    if annotations is None:
        return _classes(val, root, left_out)
    return annotated_classes(annotations, _images(val / IMAGES, root, left_out), root, left_out)


def _read(folder: Path, train: Classes, val: Classes | None, named_by: Path | None) -> Contents:
    """`named_by` is the folder or the file that has the class names of `val`."""
    names = tuple(train)
    for name, files in train.items():
        if not files:
            raise DataError(f"no images in the class folder {name!r} of {folder}; add some or remove it")
    unknown = sorted(set(val or ()) - set(names))
    if unknown:
        what = f"{named_by} holds {', '.join(map(repr, unknown[:3]))}, which is not a class to train on"
        is_folder = named_by is not None and named_by.name != ANNOTATIONS
        hint = "; its images belong in folders named like those of the images to train on" if is_folder else ""
        raise DataError(what + hint)
    return Contents(names, _part(folder, names, train), _part(folder, names, val) if val else None)


def _part(folder: Path, names: tuple[str, ...], classes: Classes) -> Part:
    number = {name: i for i, name in enumerate(names)}
    labels = [number[name] for name, files in classes.items() for _ in files]
    files = [file for images in classes.values() for file in images]

    def stream() -> Iterator[Named]:
        for file in files:
            yield _name(file, folder), file

    return Part(np.array(labels, dtype=np.int64), stream)


@dataclass(frozen=True)
class _Layout:
    """Which folder holds the class folders to train on, but for `skip`; which holds those of `val`; and, each with the
    reason, folders that are not used."""

    train: Path
    val: Path | None = None
    skip: tuple[Path, ...] = ()
    unused: tuple[tuple[str, Path], ...] = ()


def _layout(folder: Path) -> _Layout:
    """Raises `DataError` for a folder `train` that may be a class as well as a split."""
    folders = _folders(folder)
    splits: dict[str, list[Path]] = {}
    for path in folders:
        if path.name.lower() in SPLITS:
            splits.setdefault(SPLITS[path.name.lower()], []).append(path)
    beside = [path for path in folders if path.name.lower() not in SPLITS and _has_images(path)]
    trains = [path for path in splits.get("train", []) if _has_class_folders(path)]
    if not trains:
        return _classes_in_root(folder, splits, beside)
    val, unused = _held_out(splits)
    if beside and val is None:
        others = listed([path.name for path in beside])
        raise DataError(
            f"{trains[0]} is taken for the images to train on, since it holds folders, but "
            f"{others} beside it hold images too: if {trains[0].name!r} is a class, rename it or move its "
            "images out of their folders; else move the others elsewhere"
        )
    unused += [("images in other folders beside 'train'", path) for path in beside]
    unused += [(f"images in a second folder for 'train', {path.name!r}", path) for path in trains[1:]]
    return _Layout(trains[0], val, unused=tuple(unused))


def _classes_in_root(folder: Path, splits: dict[str, list[Path]], beside: list[Path]) -> _Layout:
    """The folders are classes, also those that are called like a split; but for a `val` of the same classes."""
    if not beside:
        if "train" in splits:
            raise _no_class_folders(splits["train"][0])
        held = [path for paths in splits.values() for path in paths if _has_class_folders(path)]
        if held:
            raise DataError(
                f"{folder} holds {held[0].name!r} and no images to train on; they belong in {folder}/train/"
            )
        return _Layout(folder)
    names = {path.name for path in beside}
    same = {
        split: [path for path in paths if _has_class_folders(path) and {p.name for p in _folders(path)} <= names]
        for split, paths in splits.items()
        if split in HELD_OUT
    }
    val, unused = _held_out(same)
    skip = tuple(path for paths in same.values() for path in paths)
    return _Layout(folder, val, skip, tuple(unused))


def _held_out(splits: dict[str, list[Path]]) -> tuple[Path | None, list[tuple[str, Path]]]:
    """The first of `val` and `test` that has class folders, and why the others are not used."""
    val: Path | None = None
    unused = []
    for split in HELD_OUT:
        for path in splits.get(split, []):
            if not _has_class_folders(path):
                unused.append((f"images in {path.name!r} without class folders", path))
            elif val is None:
                val = path
            else:
                unused.append((f"images in {path.name!r}, since {val.name!r} is used", path))
    return val, unused


def _has_class_folders(folder: Path) -> bool:
    return any(map(_has_images, _folders(folder)))


def _has_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, files in os.walk(folder) for name in files if not name.startswith("."))


def _classes(folder: Path, root: Path, left_out: LeftOut, skip: tuple[Path, ...] = ()) -> Classes:
    """Image files by class, both sorted by name. Raises `DataError` if there are none."""
    classes: Classes = {}
    empty: dict[str, str | None] = {}
    for path in _folders(folder):
        if path not in skip:
            here = LeftOut()
            classes[path.name] = _images(path, root, here)
            if not classes[path.name]:
                empty[path.name] = here.sentence()
            left_out.update(here)
    if not any(classes.values()):
        raise _no_class_folders(folder, left_out)
    for name, unused in empty.items():
        if unused:
            raise DataError(f"no images in the class folder '{printable(name)}' of {printable(folder)}, {unused}")
    for name in classes:
        _check_name(folder, name)
    return classes


def _no_class_folders(folder: Path, left_out: LeftOut | None = None) -> NoClassFoldersError:
    unused = left_out.sentence() if left_out else None
    hint = f" ({unused})" if unused else ""
    return NoClassFoldersError(f"no class folders with images in {folder}{hint}; images belong in {folder}/CLASS/")


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as e:
        raise DataError(
            f"the folder name '{printable(name)}' in {printable(folder)} is not UTF-8, and a class's name has to be; "
            "rename the folder"
        ) from e


def _folders(folder: Path) -> list[Path]:
    try:
        folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return sorted(path for path in folders if not _leads_up(path))
    except OSError as e:
        raise DataError(f"cannot list {printable(folder)}: {e.strerror}") from e


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in; as a class it would hold all the others."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _images(folder: Path, root: Path, left_out: LeftOut) -> list[Path]:
    """Image files at any depth, sorted; all others are left out."""

    def fail(error: OSError) -> None:
        raise DataError(f"cannot list {printable(error.filename)}: {error.strerror}") from error

    images = []
    for base, folders, files in os.walk(folder, onerror=fail):
        hidden = any(part.startswith(".") for part in Path(base).relative_to(root).parts)
        folders.sort()
        for name in folders:
            if (path := Path(base, name)).is_symlink():
                left_out.add("links to folders inside a class folder", _name(path, root))
        for name in sorted(files):
            path = Path(base, name)
            if hidden or name.startswith("."):
                if is_image(name):
                    left_out.add("hidden images", _name(path, root))
            elif is_image(name):
                images.append(path)
            else:
                left_out.add(by_ending(name), _name(path, root))
    return sorted(images)


def _loose(folder: Path, root: Path, left_out: LeftOut) -> None:
    """Leave out what lies beside class folders and may be, or hold, images."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and _leads_up(path):
            left_out.add("links to folders above", _name(path, root))
        if path.is_file() and not path.name.startswith("."):
            if is_image(path.name):
                left_out.add("images outside of class folders", _name(path, root))
            elif path.suffix.lower() in CONTAINERS:
                left_out.add(by_ending(path.name), _name(path, root))


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())

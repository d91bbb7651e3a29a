"""The classes of held-out images in a text file, as Tiny-ImageNet is published: `val/images/*.JPEG`, and beside them
`val/val_annotations.txt`, a line for each image: its file, its class and four numbers of a box, with tabs between."""

from collections.abc import Sequence
from pathlib import Path

from elasticvit.data.readers.left_out import LeftOut, printable
from elasticvit.data.readers.source import reading
from elasticvit.errors import DataError

ANNOTATIONS, IMAGES = "val_annotations.txt", "images"


def annotated_classes(file: Path, images: Sequence[Path], root: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Images by the class that the file gives them, both sorted by name; `left_out` counts what has no counterpart.

    Raises `DataError` if the file cannot be read, or none of the images is in it.
    """
    class_of = _classes(file)
    classes: dict[str, list[Path]] = {}
    for image in sorted(images):
        name = class_of.pop(image.relative_to(file.parent / IMAGES).as_posix(), None)
        if name is None:
            left_out.add(f"images without a line in {file.name}", printable(image.relative_to(root).as_posix()))
        else:
            classes.setdefault(name, []).append(image)
    if not classes:
        raise DataError(f"{printable(file)} names none of the {len(images)} images beside it")
    for unused in class_of:
        left_out.add(f"lines of {file.name} without an image", unused)
    return dict(sorted(classes.items()))


def _classes(file: Path) -> dict[str, str]:
    """The class of each file."""
    try:
        with reading(file):
            lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as e:
        raise DataError(f"cannot read {printable(file)}: it is not UTF-8") from e
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if not image or not name:
            raise DataError(f"line {number} of {printable(file)} is not a file and its class with a tab between")
        if classes.setdefault(image, name) != name:
            raise DataError(f"{printable(file)} has two classes for {image}")
    return classes

"""Parquet files as Hugging Face writes them: `train-00000-of-00016.parquet`, a column `image` of {bytes, path} and a
column `label` or `labels`.

Without bytes, the image is the file at `path`, from the folder of the Parquet file or that of the set. Class names are
those of the schema's `ClassLabel`, else of `labels.json` beside the files, else the labels themselves.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from elasticvit.data.readers.left_out import LeftOut, printable
from elasticvit.data.readers.source import (
    SPLIT_ORDER,
    UNREADABLE,
    Contents,
    Label,
    Named,
    Rows,
    Source,
    by_split,
    identity,
    labelled_contents,
    names_beside,
)
from elasticvit.errors import DataError

IMAGES, LABELS = ("image", "img"), ("label", "labels")
BATCH_ROWS = 128
"""Images in memory at a time, while they are read."""
MAX_SHOWN = 300
"""Characters of a path in messages."""


def open_parquet(folder: Path, files: Sequence[Path], images: Sequence[Path], left_out: LeftOut) -> Source:
    """The set of these files; `images` are those beside them, which they may name.

    Raises `DataError` if no file is to train on.
    """
    splits, unused = by_split(folder, files)
    left_out.update(unused)
    beside = [path for path in [folder / "labels.json"] if path.is_file()]
    used = [file for split in SPLIT_ORDER for file in splits.get(split, [])]
    read = partial(_read, folder, splits, images)
    return Source(identity("parquet", folder, [*used, *beside, *images]), read, left_out)


def _read(folder: Path, splits: dict[str, list[Path]], images: Sequence[Path]) -> Contents:
    left_out = LeftOut()
    rows = {split: _rows(folder, files, required=split == "train") for split, files in splits.items()}
    if not rows["train"].values:
        more = f" and {len(splits['train']) - 1} more" if len(splits["train"]) > 1 else ""
        raise DataError(f"{splits['train'][0]}{more} holds no images")
    contents = labelled_contents(rows, _class_names(splits) or names_beside(folder), left_out)
    if images:
        # Not `Path.resolve`, which fails for a link that leads back to itself.
        named = {os.path.realpath(path) for files in splits.values() for path in _named_files(folder, files)}
        for image in images:
            if os.path.realpath(image) not in named:
                left_out.add("images outside of Parquet files", printable(image.relative_to(folder).as_posix()))
    return contents


def _rows(folder: Path, files: Sequence[Path], *, required: bool) -> Rows:
    values = [_labels(file, required=required) for file in files]
    starts = [0, *accumulate(map(len, values))]

    def name(at: int) -> str:
        number = max(i for i, start in enumerate(starts) if start <= at)
        return f"{_name(folder, files[number])} row {at - starts[number]}"

    return Rows([value for of_file in values for value in of_file], name, partial(_stream, folder, files))


def _labels(file: Path, *, required: bool) -> list[Label | None]:
    """Of each row; if they are not `required`, a file may lack the column, as those of hidden test labels do."""
    with _opened(file) as parquet:
        if not required and not set(LABELS) & set(parquet.schema_arrow.names):
            return [None] * int(parquet.metadata.num_rows)
        column = _column(file, parquet.schema_arrow, LABELS)
        read = parquet.read(columns=[column]).column(column)
        values: list[Any] = read.to_pylist()
    if not all(value is None or isinstance(value, int | str) for value in values):
        raise DataError(f"column {column!r} of {file} holds {read.type}, but a label is one whole number or name")
    return values


def _stream(folder: Path, files: Sequence[Path]) -> Iterator[Named]:
    _check_images(files)
    for file in files:
        name = _name(folder, file)
        for row, value in enumerate(_images(file)):
            image = _Image.of(value)
            if image.content is None and image.path:
                yield f"{name} row {row}, {_shown(image.path)}", _file(folder, file, image.path, required=row == 0)
            else:
                yield f"{name} row {row}", image.content or b""


def _check_images(files: Sequence[Path]) -> None:
    """Raises `DataError` if no row of these files has an image."""
    values = (value for file in files for value in _images(file))
    if not any(image.content or image.path for image in map(_Image.of, values)):
        with _opened(files[0]) as parquet:
            column = _column(files[0], parquet.schema_arrow, IMAGES)
        raise DataError(f"column {column!r} of {files[0]} has neither bytes nor a path in any row")


def _images(file: Path) -> Iterator[Any]:
    """Values of the column of images. Raises `DataError` if its type is not one of images."""
    with _opened(file) as parquet:
        column = _column(file, parquet.schema_arrow, IMAGES)
        kind = parquet.schema_arrow.field(column).type
        if not _may_hold_images(kind):
            raise DataError(f"column {column!r} of {file} holds {kind}, not encoded images or paths")
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()


def _may_hold_images(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    from pyarrow import types

    if types.is_struct(kind):
        return any(_may_hold_images(field.type) for field in kind if field.name in ("bytes", "path"))
    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_string, types.is_large_string)
    return any(test(kind) for test in tests)


@dataclass(frozen=True)
class _Image:
    """An image as a row has it: encoded bytes, or the path of a file that holds them."""

    content: bytes | None
    path: str | None

    @classmethod
    def of(cls, value: object) -> "_Image":
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            return cls(content if isinstance(content, bytes) else None, path if isinstance(path, str) else None)
        return cls(value if isinstance(value, bytes) else None, value if isinstance(value, str) else None)


def _file(folder: Path, file: Path, path: str, *, required: bool) -> Path:
    """The file of a row that has no bytes; one that is missing is reported when it is decoded, unless `required`."""
    places = [file.parent / path, folder / path]
    for place in places:
        with suppress(OSError):  # of a name that is too long
            if place.is_file():
                return place
    if required:
        raise DataError(
            f"{file} holds paths of images and no bytes, and there is no file {_shown(places[0])}; put the images "
            "there, or write them into the Parquet file"
        )
    return places[0]


def _shown(path: str | Path) -> str:
    """The path for messages, cut if it is too long to be one."""
    shown = printable(str(path).replace("\0", r"\0"))
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def _named_files(folder: Path, files: Sequence[Path]) -> Iterator[Path]:
    for file in files:
        for value in _images(file):
            image = _Image.of(value)
            if image.content is None and image.path and "\0" not in image.path:
                yield _file(folder, file, image.path, required=False)


def _class_names(splits: dict[str, list[Path]]) -> tuple[str, ...] | None:
    """Names that the schemas give the label's numbers. Raises `DataError` if files differ: a number has to mean the
    same class in all of them."""
    names, first = None, None
    for file in (file for split in SPLIT_ORDER for file in splits.get(split, [])):
        own = _class_label(file)
        if own is None:
            continue
        if names is not None and own != names:
            raise DataError(f"{file} has other class names than {first}: {_difference(names, own)}")
        names, first = own, file
    return names


def _difference(names: tuple[str, ...], own: tuple[str, ...]) -> str:
    if len(names) != len(own):
        return f"{len(own)} names, not {len(names)}"
    number = next(i for i, (a, b) in enumerate(zip(names, own, strict=True)) if a != b)
    return f"class {number} is {own[number]!r}, not {names[number]!r}"


def _class_label(file: Path) -> tuple[str, ...] | None:
    """Names that the schema's metadata give the label's numbers."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
        if not set(LABELS) & set(schema.names):
            return None
        column, metadata = _column(file, schema, LABELS), (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"][column]["names"]
        return tuple(map(str, names)) or None
    except (*UNREADABLE, KeyError, TypeError):
        return None


def _column(file: Path, schema: Any, known: tuple[str, ...]) -> str:  # noqa: ANN401 - pyarrow has no types
    for name in known:
        if name in schema.names:
            return name
    raise DataError(f"{file} has no column {' or '.join(map(repr, known))}, but {', '.join(schema.names)}")


def _name(folder: Path, file: Path) -> str:
    return printable(file.relative_to(folder).as_posix())


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with file.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as parquet:
            yield parquet
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"cannot read {file}: {str(e).splitlines()[0]}") from e

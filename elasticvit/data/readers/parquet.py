"""Parquet files as Hugging Face writes them: `train-00000-of-00016.parquet`, a column `image` of {bytes, path} and a
column `label` or `labels`.

Class names are those of the schema's `ClassLabel`, else of `labels.json` beside the files, else the labels themselves.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from elasticvit.data.readers.source import (
    Contents,
    Label,
    Named,
    Part,
    Source,
    by_split,
    identity,
    names_beside,
    names_in,
    numbered,
)
from elasticvit.errors import DataError

IMAGES, LABELS = ("image", "img"), ("label", "labels")
ROWS = 128
"""Images in memory at a time, while they are read."""


def open_parquet(folder: Path, files: Sequence[Path]) -> Source:
    """Raises `DataError` where no file is to train on."""
    train, val = by_split(folder, files)
    beside = [path for path in [folder / "labels.json"] if path.is_file()]
    return Source(identity("parquet", folder, [*train, *val, *beside]), partial(_read, folder, train, val))


def _read(folder: Path, train: Sequence[Path], val: Sequence[Path]) -> Contents:
    values = _labels(train)
    names = _class_label(train[0]) or names_beside(folder) or names_in(values)
    held = Part(numbered(_labels(val), names), partial(_stream, folder, val)) if val else None
    return Contents(names, Part(numbered(values, names), partial(_stream, folder, train)), held)


def _labels(files: Sequence[Path]) -> list[Label]:
    found: list[Label] = []
    for file in files:
        with _opened(file) as parquet:
            column = _column(file, parquet.schema_arrow, LABELS)
            found += parquet.read(columns=[column]).column(column).to_pylist()
        if not all(isinstance(value, int | str) for value in found):
            raise DataError(f"column {column!r} of {file} holds more than one number or name an image, or none")
    return found


def _stream(folder: Path, files: Sequence[Path]) -> Iterator[Named]:
    for file in files:
        name = file.relative_to(folder).as_posix()
        with _opened(file) as parquet:
            column, row = _column(file, parquet.schema_arrow, IMAGES), 0
            for batch in parquet.iter_batches(batch_size=ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield f"{name} row {row}", (value.get("bytes") if isinstance(value, dict) else value) or b""
                    row += 1


def _class_label(file: Path) -> tuple[str, ...] | None:
    """Names that the schema's metadata give the label's numbers."""
    with _opened(file) as parquet:
        schema = parquet.schema_arrow
        column, metadata = _column(file, schema, LABELS), (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"][column]["names"]
        return tuple(map(str, names)) or None
    except (ValueError, KeyError, TypeError):
        return None


def _column(file: Path, schema: Any, known: tuple[str, ...]) -> str:  # noqa: ANN401 - pyarrow has no types
    for name in known:
        if name in schema.names:
            return name
    raise DataError(f"{file} has no column {' or '.join(map(repr, known))}, but {', '.join(schema.names)}")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            yield parquet
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"cannot read {file}: {str(e).splitlines()[0]}") from e

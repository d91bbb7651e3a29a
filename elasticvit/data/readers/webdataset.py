"""Tar shards as webdataset writes them: for every image KEY.jpg (or .jpeg, .png, .webp) and KEY.cls or KEY.json.

`.cls` holds the number of the class or its name; `.json` the same, or an object with `label`, `cls` or `class`. Class
names are those of `labels.json` beside the shards, else the labels themselves.
"""

import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
KEYS = ("label", "cls", "class")

Sample = Mapping[str, Any]


def open_webdataset(folder: Path, shards: Sequence[Path]) -> Source:
    """Raises `DataError` where no shard is to train on."""
    train, val = by_split(folder, shards)
    beside = [path for path in [folder / "labels.json"] if path.is_file()]
    return Source(identity("webdataset", folder, [*train, *val, *beside]), partial(_read, folder, train, val))


def _read(folder: Path, train: Sequence[Path], val: Sequence[Path]) -> Contents:
    values = _labels(train)
    names = names_beside(folder) or names_in(values)
    held = Part(numbered(_labels(val), names), partial(_stream, folder, val)) if val else None
    return Contents(names, Part(numbered(values, names), partial(_stream, folder, train)), held)


def _labels(shards: Sequence[Path]) -> list[Label]:
    return [_label(shard, sample) for shard in shards for sample in _samples(shard, _is_label)]


def _stream(folder: Path, shards: Sequence[Path]) -> Iterator[Named]:
    for shard in shards:
        name = shard.relative_to(folder).as_posix()
        for sample in _samples(shard, lambda file: _is_label(file) or file.lower().endswith(IMAGES)):
            _label(shard, sample)
            image = next((data for suffix, data in sample.items() if suffix.endswith(IMAGES)), b"")
            yield f"{name} {sample['__key__']}", image


def _label(shard: Path, sample: Sample) -> Label:
    for suffix, data in sample.items():
        if suffix.rpartition(".")[2] not in LABELS:
            continue
        try:
            value = json.loads(data) if suffix.endswith("json") else _plain(data.decode().strip())
            if isinstance(value, Mapping):
                value = next(value[key] for key in KEYS if key in value)
        except (ValueError, StopIteration):
            value = None
        if isinstance(value, int | str) and not isinstance(value, bool):
            return value
    raise DataError(f"{shard}: {sample['__key__']} has no label; put its class's number into {sample['__key__']}.cls")


def _plain(text: str) -> Label:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _is_label(file: str) -> bool:
    return file.lower().endswith(LABELS)


def _samples(shard: Path, select: Callable[[str], bool]) -> Iterator[Sample]:
    """Files with one key belong together. Streams are opened here: webdataset reads meaning into addresses."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    try:
        with shard.open("rb") as stream:
            yield from group_by_keys(tar_file_expander([{"stream": stream, "url": str(shard)}], select_files=select))
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as e:
        raise DataError(f"cannot read {shard}: {e.args[0] if e.args else e}") from e

"""Supernet files on the disk: looked at without their weights, and brought into the home folder."""

from __future__ import annotations

import json
import os
import re
import secrets
import struct
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from elasticvit.accuracy.table import FEWEST_SUBNETS, AccuracyTable
from elasticvit.archs.space import Space
from elasticvit.errors import PredictorError, SpaceError
from server.errors import BadValue, from_os_error
from server.services import supernets
from server.settings import NAME
from server.store.blobs import CHUNK, PART, file_sha256
from server.store.db import Database
from server.store.tables import Supernet

FORMAT = "elasticvit-supernet/1"
ENDING = ".safetensors"
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Description:
    """What the header of a supernet file says; `card` as it stands there."""

    space: Space
    card: dict[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """What is stored of the card."""
        return {**self.card.get("provenance", {}), "data": self.card.get("data"), "terms": self.card.get("terms")}


def add(database: Database, file: Path, name: str | None, folder: Path, now: datetime) -> Supernet:
    """Copy a supernet file and its table into the supernets folder and know it; the same file twice is harmless.

    Args:
        name: what it is called from now on, by default the file's name.

    Raises:
        BadValue, Conflict: it cannot be served, or not under this name; nothing was changed.
        DiskFull, ReadOnlyHome.
    """
    name = file.stem if name is None else name
    _check(file, name)
    with database.read() as session:
        supernets.check_free(session, name, file_sha256(file))
    return know(database, bring(file, folder, name), now)


def know(database: Database, file: Path, now: datetime) -> Supernet:
    """Know a file that lies in the supernets folder by its name there, as it is now. Raises BadValue."""
    described = _check(file, file.stem)
    with database.write() as session:
        return supernets.register(
            session,
            name=file.stem,
            file=file,
            now=now,
            space=json.loads(described.space.to_json()),
            classes=described.space.classes,
            provenance=described.provenance,
        )


def describe(file: Path) -> Description:
    """Read a whole supernet file's header. Raises BadValue for what is none, or is cut off."""
    if not file.is_file():
        raise BadValue(f"there is no file {file} on the server's machine")
    try:
        metadata = _metadata(file)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        card: dict[str, Any] = json.loads(metadata["card"])
        return Description(Space.from_json(metadata["space"]), dict(card))
    except (KeyError, TypeError, ValueError, SpaceError) as error:
        raise BadValue(f"{file} is not a whole supernet file: {error}") from error
    except OSError as error:
        raise from_os_error(error, str(file)) from error


def check_table(file: Path, space: Space) -> Path:
    """The table of evaluated sub-networks beside a supernet file. Raises BadValue where it is missing or of no use."""
    table = table_of(file)
    how = f"evaluate some by `elasticvit tabulate {file} --n 600`"
    if not table.is_file():
        raise BadValue(f"{file} has no table of evaluated sub-networks, from which accuracies are predicted: {how}")
    try:
        known = AccuracyTable.load(table)
    except PredictorError as error:
        raise BadValue(f"{error}: {how}") from error
    if known.space != space or len(known.top1) < FEWEST_SUBNETS:
        raise BadValue(f"{table} is of another space or has fewer than {FEWEST_SUBNETS} sub-networks: {how}")
    return table


def table_of(file: Path) -> Path:
    return file.with_suffix(".accuracy.jsonl")


def table_sha256(file: Path) -> str | None:
    """Of the table beside a supernet file, as it is now; None where there is none."""
    table = table_of(file)
    try:
        found = table.stat()
        return _sha256_at(table, found.st_size, found.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=32)
def _sha256_at(file: Path, size_bytes: int, changed_ns: int) -> str:
    """Read once for each state of the file."""
    del size_bytes, changed_ns
    return file_sha256(file)


def bring(file: Path, folder: Path, name: str) -> Path:
    """Copy a supernet file and its table into the supernets folder; where it lies there, under that name.

    Raises DiskFull, ReadOnlyHome.
    """
    to = folder / f"{name}{ENDING}"
    try:
        if not (to.exists() and to.samefile(file)):
            # The table first: a file that is there is served at the next start.
            _copy(table_of(file), table_of(to))
            _copy(file, to)
    except OSError as error:
        raise from_os_error(error, f"the folder {folder}") from error
    return to


def _check(file: Path, name: str) -> Description:
    if not re.match(NAME, name):
        raise BadValue(f"'{name}' cannot be a supernet's name: give one of letters, digits and ._:-")
    described = describe(file)
    check_table(file, described.space)
    return described


def _copy(file: Path, to: Path) -> None:
    part = to.with_name(f"{PART}{secrets.token_hex(6)}")
    try:
        with file.open("rb") as source, part.open("xb") as target:
            while chunk := source.read(CHUNK):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)


def _metadata(file: Path) -> dict[str, str]:
    """The `__metadata__` of a safetensors file whose tensors are all there. Raises ValueError."""
    with file.open("rb") as opened:
        head = opened.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else MAX_HEADER_BYTES + 1
        if size > MAX_HEADER_BYTES:
            raise ValueError("it has no safetensors header")
        header = json.loads(opened.read(size))
    if not isinstance(header, dict):
        raise ValueError("it has no safetensors header")
    metadata = header.pop("__metadata__", {})
    end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    if file.stat().st_size != 8 + size + end:
        raise ValueError("it is cut off")
    return dict(metadata)

"""Supernet files on the disk: looked at without their weights, and brought into the home folder."""

from __future__ import annotations

import json
import os
import re
import secrets
from datetime import datetime
from pathlib import Path

from elasticvit.accuracy.table import FEWEST_SUBNETS, AccuracyTable
from elasticvit.archs.space import Space
from elasticvit.errors import PredictorError
from server.errors import BadValue, from_os_error
from server.services import supernets
from server.settings import NAME
from server.store.blobs import CHUNK, PART, file_sha256
from server.store.db import Database
from server.store.supernet_file import ENDING, Description, describe, table_of
from server.store.tables import Supernet


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

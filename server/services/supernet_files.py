"""Supernet files on the disk: checked without their weights, and copied into the home folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlmodel import Session, select

from elasticvit.accuracy.table import FEWEST_SUBNETS, AccuracyTable
from elasticvit.archs.space import Space
from elasticvit.errors import PredictorError
from elasticvit.hashing import file_sha256
from elasticvit.nn.supernet_header import ENDING, SupernetHeader, table_path
from server.errors import BadValue, ServerError, from_os_error
from server.services import supernets
from server.services.storable import storable
from server.store.blobs import copy_file
from server.store.db import Database
from server.store.supernet_file import describe
from server.store.tables import Supernet
from server.wire import NAME_PATTERN

log = structlog.get_logger()
DAMAGED, NOTE = "damaged", ".why"
MAX_WHY_CHARS = 500


def add(database: Database, file: Path, name: str | None, folder: Path, now: datetime) -> Supernet:
    """Copy a supernet file and its accuracy table into the supernets folder and register it; may be repeated.

    Args:
        name: of the supernet, by default the file's name without its ending.

    Raises:
        BadValue, Conflict: the file cannot be served, or not under this name; nothing was changed.
        DiskFull, ReadOnlyHome.
    """
    name = file.stem if name is None else name
    check(file, name)
    with database.read() as session:
        supernets.check_free(session, name, file_sha256(file))
    return register(database, bring(file, folder, name), now)


def register(database: Database, file: Path, now: datetime) -> Supernet:
    """Register a file of the supernets folder under its name there, as it is now. Raises BadValue."""
    header = check(file, file.stem)
    with database.write() as session:
        return supernets.register(
            session,
            name=file.stem,
            file=file,
            now=now,
            space=json.loads(header.space.to_json()),
            classes=header.space.classes,
            provenance=_provenance(header.card),
        )


def register_made(database: Database, file: Path, now: datetime) -> bool:
    """Register a file that this start made; returns whether another was registered under its name. Raises BadValue."""
    with database.read() as session:
        former = session.get(Supernet, file.stem)
    return register(database, file, now).sha256 != (former.sha256 if former is not None else file_sha256(file))


def set_damaged_aside(folder: Path) -> list[str]:
    """Move what is no whole supernet file to the folder `damaged` in this one, each with a note that says why.

    So that none of them prevents a start, and a default supernet can be copied again. A whole file without a usable
    accuracy table stays. Returns a sentence for each, for the operator. Raises nothing.
    """
    said = []
    for file in _files(folder):
        try:
            describe(file)
        except Exception as error:  # whatever a hostile file makes a reader raise
            said.append(_set_aside(file, _why(error)))
            continue
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of a library in Rust
                raise
            said.append(_set_aside(file, _why(error)))
    return said


def not_served(session: Session, folder: Path) -> list[str]:
    """What lies in the supernets folder and is not served, each with where it is and why."""
    known = set(session.exec(select(Supernet.name)))
    left = [f"{file.name} (the log of the last start says why)" for file in _files(folder) if file.stem not in known]
    aside = folder / DAMAGED
    try:
        notes = sorted(aside.glob(f"*{NOTE}"))
        return [*(f"{aside / note.stem} ({note.read_text('utf-8', 'replace').strip()})" for note in notes), *left]
    except OSError as error:
        return [f"{aside} ({error.strerror})", *left]


def check(file: Path, name: str) -> SupernetHeader:
    """The header of a file that can be served under this name. Raises BadValue."""
    if not re.match(NAME_PATTERN, name):
        raise BadValue(f"'{name}' cannot be a supernet's name: give one of letters, digits and ._:-")
    header = describe(file)
    try:
        storable([header.card, header.space.name])
    except BadValue as error:
        raise BadValue(f"{file} has a damaged header: {error.detail}") from error
    check_table(file, header.space)
    return header


def check_table(file: Path, space: Space) -> Path:
    """The accuracy table beside a supernet file. Raises BadValue if it is missing or unusable."""
    table = table_path(file)
    how = f"evaluate some by `elasticvit tabulate {file} --n 600`"
    if not table.is_file():
        raise BadValue(f"{file} has no accuracy table, from which accuracies are predicted: {how}")
    if not table.read_bytes().endswith(b"\n"):
        raise BadValue(f"{table} is cut off, it ends within a line: {how}")
    try:
        evaluated = AccuracyTable.load(table, space)
    except PredictorError as error:
        raise BadValue(f"{error}: {how}") from error
    if len(evaluated.top1) < FEWEST_SUBNETS:
        raise BadValue(f"{table} has fewer than {FEWEST_SUBNETS} sub-networks: {how}")
    return table


def bring(file: Path, folder: Path, name: str) -> Path:
    """Copy a supernet file and its accuracy table into the supernets folder under this name; returns the copy's path.

    Raises DiskFull, ReadOnlyHome.
    """
    to = folder / f"{name}{ENDING}"
    try:
        if not (to.exists() and to.samefile(file)):
            # The accuracy table first: a supernet file in this folder is served at the next start.
            copy_file(table_path(file), table_path(to))
            copy_file(file, to)
    except OSError as error:
        raise from_os_error(error, f"the folder {folder}") from error
    return to


def _files(folder: Path) -> list[Path]:
    """Everything with the ending of a supernet file, of whatever type."""
    return sorted(file for file in folder.glob(f"*{ENDING}") if not file.name.startswith("."))


def _set_aside(file: Path, why: str) -> str:
    to = file.parent / DAMAGED / file.name
    number = 1
    while os.path.lexists(to):
        number += 1
        to = to.with_name(f"{file.stem}-{number}{ENDING}")
    try:
        to.parent.mkdir(exist_ok=True)
        file.rename(to)  # a link itself, not what it leads to
    except OSError as error:
        return f"not serving {file.name}, which cannot be moved away ({error.strerror}): {why}"
    with suppress(OSError):
        to.with_name(f"{to.name}{NOTE}").write_text(f"{why}\n")
    log.warning("a damaged supernet file was set aside", file=str(file), moved_to=str(to), why=why)
    return f"set {file.name} aside, it is now {to}: {why}"


def _why(error: BaseException) -> str:
    return error.detail if isinstance(error, ServerError) else f"{type(error).__name__}: {error}"[:MAX_WHY_CHARS]


def _provenance(card: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a card that is stored in the database."""
    return {**card.get("provenance", {}), "data": card.get("data"), "terms": card.get("terms")}

"""A copy of a home folder that can be served in its place, made while the service runs.

The database is copied first, by SQLite's own backup, which sees one moment. Files are never changed once they are
stored, so those that the copied database names are copied after it, each checked against its hash.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from elasticvit.progress import Report, Step
from server.errors import BadValue, InfraError, from_os_error
from server.settings import Settings
from server.store.blobs import CHUNK
from server.store.part_files import part_file

DATABASE = "farm.db"
PHASE = "files"
INCOMPLETE = "this-backup-is-incomplete"


def back_up(settings: Settings, target: Path, report: Report) -> list[str]:
    """Copy the home folder to `target`, which must not exist or be empty; returns a sentence for each file that is
    damaged or missing, which the copy then lacks. Until it is complete, the copy has a file that says so.

    A database of PostgreSQL is not copied: pg_dump does that, and has to run before. Raises BadValue, InfraError.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadValue(f"{target} exists already: give the name of a folder that does not")
    home = settings.home.resolve()
    if target.resolve().is_relative_to(home):
        raise BadValue(f"{target} lies in the home folder that is backed up: give a folder outside of it")
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _claimed(target):
            if (database := _sqlite_file(settings)) is not None:
                _copy_database(database, target / DATABASE)
            return list(_copy_files(home, target, report))
    except OSError as error:
        raise from_os_error(error, f"the folder {target}") from error


@contextmanager
def _claimed(target: Path) -> Iterator[None]:
    """One copy is made in a folder at a time. The file that says so stays where it was not completed. Raises
    BadValue."""
    mark = target / INCOMPLETE
    try:
        mark.touch(0o600, exist_ok=False)
    except FileExistsError as error:
        raise BadValue(f"another backup is being written to {target}: give the name of another folder") from error
    yield
    mark.unlink()


def _sqlite_file(settings: Settings) -> Path | None:
    """None for a database that is not a file."""
    url = make_url(settings.url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _copy_database(source: Path, target: Path) -> None:
    if not source.is_file():
        raise BadValue(f"there is no {source}: set ELASTICVIT_HOME to the home folder of a service")
    try:
        target.touch(0o600)
        with closing(sqlite3.connect(source, timeout=60)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise InfraError(
            f"{source} cannot be copied ({error}): run `elasticvit fsck` to see what is damaged"
        ) from error


def _copy_files(home: Path, target: Path, report: Report) -> Iterator[str]:
    found = sorted(_kept(home))
    for number, path in enumerate(found):
        report(Step(PHASE, number, len(found)))
        to = target / path.relative_to(home)
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            digest = _copy(path, to)
        except FileNotFoundError:
            continue  # removed meanwhile: a token that was replaced, or a file that was set aside
        if _is_blob(home, path) and digest != path.name:
            to.unlink()
            yield f"{path} is damaged (its SHA-256 is {digest}) and was left out: run `elasticvit fsck`"
    report(Step(PHASE, len(found), len(found)))


def _kept(home: Path) -> Iterator[Path]:
    """What a home needs: tokens, blobs and supernets, without databases, logs, locks and files that are not whole."""
    yield from home.glob("admin.token")
    yield from home.glob("agents/*/agent.token")
    yield from (path for path in home.glob("blobs/??/*") if _is_blob(home, path))
    yield from (path for path in home.glob("supernets/*") if path.is_file() and not path.name.startswith("."))


def _is_blob(home: Path, path: Path) -> bool:
    return path.is_relative_to(home / "blobs") and len(path.name) == 64 and path.is_file()


def _copy(source: Path, target: Path) -> str:
    """Copy a file with its permissions; the SHA-256 of what was copied. Raises OSError."""
    digest = hashlib.sha256()
    with source.open("rb") as file, part_file(target.parent, source.stat().st_mode & 0o777) as part:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            part.file.write(chunk)
        shutil.copystat(source, part.path)
        part.keep(target)
    return digest.hexdigest()

"""All checks of a home folder, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import make_url

from elasticvit.progress import Report, silent
from server.errors import InfraError
from server.services.fsck import access, database, files
from server.services.fsck.finding import Finding
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database


def check(settings: Settings, report: Report = silent) -> Iterator[Finding]:
    """Everything that is wrong in a home folder, as it is found. Raises InfraError when it cannot be checked."""
    if not settings.home.is_dir():
        raise InfraError(f"there is no folder {settings.home}: give the home folder of a service by --home")
    if not any((settings.home / name).exists() for name in ("farm.db", "admin.token", "blobs", "supernets")):
        raise InfraError(f"{settings.home} is not the home folder of a service: give that by --home")
    yield from access.check_modes(settings)
    blobs = Blobs(settings.blobs_folder)
    url = make_url(settings.url)
    if url.get_backend_name() == "sqlite" and url.database:
        damaged = list(database.check_file(Path(url.database)))
        yield from damaged
        if damaged:
            # Which files are missing cannot be known, but those that are there carry their hash as their name.
            yield from files.check_others(settings, blobs, None, report)
            return
    opened = Database(settings.url)
    try:
        yield from _check_by(opened, settings, blobs, report)
    finally:
        opened.close()


def _check_by(opened: Database, settings: Settings, blobs: Blobs, report: Report) -> Iterator[Finding]:
    unreadable = list(database.check_rows(opened))
    yield from unreadable
    if unreadable:
        yield from files.check_others(settings, blobs, None, report)
        return
    with opened.read() as session:
        names = list(files.named(session))
        yield from access.check_tokens(session, settings)
        yield from files.check_supernets(session, settings.supernets_folder)
    yield from files.check_blobs(blobs, names, report)
    yield from files.check_others(settings, blobs, {name.sha256 for name in names}, report)

"""The home folder: made, checked and brought up to date before anything is served."""

from __future__ import annotations

import secrets

import structlog

from server.clock import Clock, utc_now
from server.errors import from_os_error
from server.services import tokens
from server.settings import Settings
from server.store.blobs import PART, Blobs
from server.store.db import Database, migrate

log = structlog.get_logger()


def prepare(settings: Settings, clock: Clock = utc_now) -> Database:
    """Open a home folder: writable, database at this code's revision, admin token in place. Harmless to repeat.

    Raises ReadOnlyHome, DiskFull, DatabaseTooNew, ForeignDatabase, SettingsError.
    """
    probe = settings.home / f"{PART}{secrets.token_hex(6)}"
    try:
        for folder in (settings.home, settings.blobs_folder, settings.supernets_folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(error, f"the home folder {settings.home}") from error
    database = Database(settings.url)
    copy = migrate(database)
    if copy is not None:
        log.info("migrated an older database", copy=copy)
    tokens.ensure_admin(database, settings.admin_token_file, clock())
    Blobs(settings.blobs_folder).remove_stale_parts()
    return database

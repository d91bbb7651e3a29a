"""The home folder: created, checked and migrated before anything is served."""

from __future__ import annotations

import structlog

from server.clock import Clock, utc_now
from server.errors import from_os_error
from server.services import tokens
from server.settings import Settings
from server.store.db import Database, migrate
from server.store.part_files import part_file, remove_stale

log = structlog.get_logger()


def prepare(settings: Settings, clock: Clock = utc_now) -> Database:
    """Open a home folder: writable, its database migrated, the admin token written. May be repeated.

    Raises ReadOnlyHome, DiskFull, DatabaseTooNew, ForeignDatabase, SettingsError.
    """
    folders = (settings.home, settings.blobs_folder, settings.supernets_folder)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        with part_file(settings.home):
            pass  # to see whether the folder is writable
    except OSError as error:
        raise from_os_error(error, f"the home folder {settings.home}") from error
    database = Database(settings.url)
    copy = migrate(database)
    if copy is not None:
        log.info("migrated an older database", copy=copy)
    tokens.ensure_admin(database, settings.admin_token_file, clock())
    for folder in folders:
        remove_stale(folder)
    return database

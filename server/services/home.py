"""The home folder: created, checked and migrated before anything is served."""

from __future__ import annotations

import structlog
from sqlalchemy.exc import DBAPIError

from server.clock import Clock, utc_now
from server.errors import from_os_error
from server.services import private_modes, tokens
from server.settings import Settings
from server.store.db import Database, check_whole, from_database_error, migrate
from server.store.part_files import part_file, remove_stale

log = structlog.get_logger()


def prepare(settings: Settings, clock: Clock = utc_now, *, thorough: bool = False) -> Database:
    """Open a home folder: writable, private, its database migrated, the admin token written. May be repeated.

    With `thorough` the whole database is read once, to see whether it is damaged.

    Raises ReadOnlyHome, DiskFull, DatabaseTooNew, ForeignDatabase, DamagedDatabase, SettingsError.
    """
    folders = (settings.home, settings.blobs_folder, settings.supernets_folder)
    try:
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with part_file(settings.home):
            pass  # to see whether the folder is writable
    except OSError as error:
        raise from_os_error(error, f"the home folder {settings.home}") from error
    for sentence in private_modes.mend(settings):
        log.warning(sentence)
    database = Database(settings.url)
    try:
        _open(database, settings, clock, thorough)
    except DBAPIError as error:
        database.close()
        raise from_database_error(error) from error
    for folder in folders:
        remove_stale(folder)
    return database


def is_in_use(settings: Settings) -> bool:
    """Whether the home folder holds files that only its database explains."""
    return settings.admin_token_file.exists() and any(settings.blobs_folder.glob("??/*"))


def _open(database: Database, settings: Settings, clock: Clock, thorough: bool) -> None:
    copy = migrate(database, in_use=is_in_use(settings))
    if copy is not None:
        log.info("migrated an older database", copy=copy)
    if thorough:
        check_whole(database)
    tokens.ensure_admin(database, settings.admin_token_file, clock())

"""The database: an engine made for several processes at once, transactions, and migration to the present schema.

SQLite runs in WAL mode. A transaction that writes begins with BEGIN IMMEDIATE: two processes then wait for each other,
where a read that turns into a write would be refused at once ("database is locked"). Within a process the writers of
SQLite take turns by a lock: they would all sleep in SQLite's busy handler otherwise, and the unlucky ones for long. A
transaction that only reads waits for nobody and sees one snapshot, in PostgreSQL too.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import structlog
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError
from sqlmodel import Session

from server.errors import (
    BadValue,
    DamagedDatabase,
    DatabaseTooNew,
    DiskFull,
    ForeignDatabase,
    InfraError,
    ReadOnlyHome,
    ServerError,
    SettingsError,
    Unavailable,
    from_os_error,
)
from server.store.hints import Hints, hinted
from server.store.part_files import part_file
from server.store.sqlite_file import follow
from server.wire.text import plain_value

log = structlog.get_logger()
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0
# A server that went away without a word is noticed after a while, and does not hang what waits for it for ever.
POSTGRES_LIMITS = {
    "connect_timeout": 10,  # s
    "keepalives_idle": 15,  # s
    "keepalives_interval": 5,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
MIGRATION_LOCK = 7_205_531  # any constant: the key of this server's advisory lock in PostgreSQL
SHORT = ("SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_READ", "SQLITE_IOERR_CORRUPTFS")
DAMAGED = ("not a database", "malformed", "no such table", "no such column", "could not decode")
NO_TABLE = ("42P01", "42703")  # SQLSTATE: undefined table, undefined column
AWAY = ("57P01", "57P02", "57P03", "08000", "08001", "08003", "08006")  # shutting down, starting, no connection
CONFLICTS = ("40001", "40P01")  # SQLSTATE: serialization failure, deadlock


class Database:
    """Transactions on one database, for all threads of a process. Rows stay readable after the transaction."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        self.hints = Hints(url)
        self._turn = threading.Lock() if self.engine.dialect.name == "sqlite" else None
        self._writing = self.engine.execution_options(immediate=True)
        self._reading = self.engine
        if self.engine.dialect.name == "postgresql":
            self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only transaction on one snapshot: no statement in it sees a commit made after its first one.

        A snapshot in SQLite (WAL), REPEATABLE READ READ ONLY in PostgreSQL. Changes made in it are refused or dropped.
        """
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back by any exception. What it hinted (`server.store.hints`)
        is sent after the commit. Raises Unavailable when the writers before take too long."""
        with self._in_turn(), Session(self._writing, expire_on_commit=False) as session:
            with session.begin():
                yield session
                self.hints.before_commit(session)
            topics = hinted(session)
        self.hints.after_commit(topics)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
        elif self._turn.acquire(timeout=BUSY_SECONDS):
            try:
                yield
            finally:
                self._turn.release()
        else:
            raise Unavailable("other changes of the database take too long: nothing was changed, try again")

    def close(self) -> None:
        self.hints.close()
        self.engine.dispose()


def make_engine(url: str) -> Engine:
    """Raises SettingsError for a URL of neither SQLite nor PostgreSQL."""
    try:
        parsed = make_url(url)
    except Exception as error:
        raise SettingsError("ELASTICVIT_DATABASE_URL is not a database URL such as sqlite:////path/farm.db") from error
    if parsed.get_backend_name() == "postgresql":
        driver = parsed.set(drivername="postgresql+psycopg")
        return create_engine(driver, pool_pre_ping=True, pool_size=10, connect_args=POSTGRES_LIMITS, **JSON)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise SettingsError("ELASTICVIT_DATABASE_URL must be a sqlite:///FILE or a postgresql:// URL")
    engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS}, pool_size=20, max_overflow=30, **JSON)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    follow(engine, Path(parsed.database))
    return engine


def to_json(value: object) -> str:
    """What goes into a JSON column; characters that would make the row unreadable are replaced (`server.wire.text`)."""
    text = json.dumps(value)
    escaped = "\\u0000" in text or "\\ud" in text
    return json.dumps(plain_value(value)) if escaped else text


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN would come too late; `_begin_sqlite` sends ours
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(BUSY_SECONDS * 1e3)}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def migrate(database: Database, *, in_use: bool = False) -> str | None:
    """Bring the schema up to this code's; processes that start together wait for each other.

    An older SQLite file is copied first. Returns the path of the copy, None without one. With `in_use` there are files
    that belong to what the database holds, so that an empty one is a damaged one.
    Raises DatabaseTooNew, ForeignDatabase, DamagedDatabase, ReadOnlyHome, DiskFull, Unavailable.
    """
    try:
        with _migration_lock(database.engine):
            if database.engine.dialect.name == "sqlite":
                _prepare_file(_file(database.engine), in_use)
            return _migrate(database)
    except DBAPIError as error:
        raise from_database_error(error) from error


def check_whole(database: Database) -> None:
    """Read all of an SQLite file, which takes about a second for each gigabyte. Raises DamagedDatabase."""
    if database.engine.dialect.name != "sqlite":
        return
    try:
        with database.engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    except DBAPIError as error:
        raise from_database_error(error) from error
    if found != "ok":
        raise DamagedDatabase(_damaged(str(found).replace("\n", " ")))


def _prepare_file(file: Path, in_use: bool) -> None:
    """A file that is made here is private; SQLite's own would be readable by all. Raises DamagedDatabase, OSError."""
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        if in_use:
            log.warning("there was no database: a new one does not know the files of this home", file=str(file))
    elif in_use and file.stat().st_size == 0:
        raise DamagedDatabase(
            f"the database {file} is empty, though this home folder was in use: put a backup in its place, or remove "
            "the file to start with an empty database, which does not know the files of this home"
        )


def _migrate(database: Database) -> str | None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        tables = inspect(connection).get_table_names()
    if current is None and tables:
        raise ForeignDatabase(f"{_name(database.engine)} holds other tables: point ELASTICVIT_DATABASE_URL elsewhere")
    if current is not None and not _known(scripts, current):
        raise DatabaseTooNew(
            f"{_name(database.engine)} has revision {current}, made by a newer version of this server: upgrade it"
        )
    if current == scripts.get_current_head():
        return None
    copy = _backup(database.engine, current) if current is not None else None
    upgrade(database)
    return copy


def is_current(database: Database) -> bool:
    """Whether the schema is this code's. Raises DBAPIError."""
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current == ScriptDirectory(str(MIGRATIONS)).get_current_head()


def upgrade(database: Database, revision: str = "head") -> None:
    """Run the migrations up to `revision` in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.engine.execution_options(immediate=True).begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, revision)


def from_database_error(error: DBAPIError) -> ServerError:
    """The server's error for what the database refused."""
    if isinstance(error, DataError):  # PostgreSQL, of a NUL character in an address or a number out of range
        return BadValue("a value in the request does not fit the database: a NUL character, or too large a number")
    message = str(error.orig).lower()
    name, state = getattr(error.orig, "sqlite_errorname", ""), getattr(error.orig, "sqlstate", None)
    if name in SHORT or state in NO_TABLE or any(text in message for text in DAMAGED):
        return DamagedDatabase(_damaged(str(error.orig)))
    if "full" in message or "no space" in message or "disk i/o error" in message:
        return DiskFull("the database has no space left: free some on its disk and try again")
    if "readonly" in message or "read-only" in message or "unable to open" in message or "permission denied" in message:
        return ReadOnlyHome(
            f"the database cannot be written ({error.orig}): set ELASTICVIT_HOME to a folder you may write"
        )
    return _unavailable(error)


def _unavailable(error: DBAPIError) -> Unavailable:
    state, first = getattr(error.orig, "sqlstate", None), str(error.orig).partition("\n")[0]
    if state in CONFLICTS:
        return Unavailable("another transaction changed the same rows at the same time: nothing was changed, try again")
    if error.connection_invalidated or state in AWAY or "connection" in first:
        return Unavailable(f"the database is away ({first}): try again, requests go through as soon as it is back")
    return Unavailable(f"the database refused the transaction, try again: {first}")


def from_json(text: str | bytes) -> Any:  # noqa: ANN401
    """What a JSON column holds. Raises DamagedDatabase."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedDatabase(_damaged(f"a value is not JSON: {error}")) from error


JSON: dict[str, Any] = {"json_serializer": to_json, "json_deserializer": from_json}


def _damaged(why: str) -> str:
    return (
        f"the database is damaged ({why}): stop the service, and put a backup in its place or move it away; "
        "`elasticvit fsck` says what can still be read"
    )


def _known(scripts: ScriptDirectory, revision: str) -> bool:
    try:
        return scripts.get_revision(revision) is not None
    except CommandError:
        return False


def _backup(engine: Engine, revision: str) -> str | None:
    """Copy an SQLite file into its folder, completely or not at all."""
    if engine.dialect.name != "sqlite":
        return None
    source = _file(engine)
    target = source.with_name(f"{source.name}.before-{revision}")
    number = 1
    while target.exists():
        number += 1
        target = source.with_name(f"{source.name}.before-{revision}-{number}")
    try:
        with part_file(source.parent) as part:
            with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(part.path)) as new:
                old.backup(new)
            part.keep(target)
    except (sqlite3.OperationalError, OSError) as error:
        raise InfraError(f"the older database cannot be copied to {target} before its migration: {error}") from error
    return str(target)


@contextmanager
def _migration_lock(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        path = _file(engine).with_name(f"{_file(engine).name}.migration-lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise from_os_error(error, f"the folder {path.parent}") from error
    else:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})


def _file(engine: Engine) -> Path:
    assert engine.url.database is not None
    return Path(engine.url.database)


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)

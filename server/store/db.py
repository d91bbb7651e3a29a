"""The database: an engine made for several processes at once, transactions, and migration to the present schema.

SQLite runs in WAL mode. A transaction that writes begins with BEGIN IMMEDIATE: two processes then wait for each other,
where a read that turns into a write would be refused at once ("database is locked"). A transaction that only reads
sees one snapshot, in PostgreSQL too.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import alembic.command
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
from server.store.part_files import part_file
from server.store.sqlite_file import follow
from server.wire.text import plain_value

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
AWAY = ("57P01", "57P02", "57P03", "08000", "08001", "08003", "08006")  # shutting down, starting, no connection
CONFLICTS = ("40001", "40P01")  # SQLSTATE: serialization failure, deadlock


class Database:
    """Transactions on one database, for all threads of a process. Rows stay readable after the transaction."""

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
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
        """One transaction: committed at the end, rolled back by any exception."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def make_engine(url: str) -> Engine:
    """Raises SettingsError for a URL of neither SQLite nor PostgreSQL."""
    try:
        parsed = make_url(url)
    except Exception as error:
        raise SettingsError("ELASTICVIT_DATABASE_URL is not a database URL such as sqlite:////path/farm.db") from error
    if parsed.get_backend_name() == "postgresql":
        driver = parsed.set(drivername="postgresql+psycopg")
        return create_engine(
            driver, pool_pre_ping=True, pool_size=10, json_serializer=to_json, connect_args=POSTGRES_LIMITS
        )
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise SettingsError("ELASTICVIT_DATABASE_URL must be a sqlite:///FILE or a postgresql:// URL")
    engine = create_engine(
        parsed, connect_args={"timeout": BUSY_SECONDS}, pool_size=20, max_overflow=30, json_serializer=to_json
    )
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


def migrate(database: Database) -> str | None:
    """Bring the schema up to this code's; processes that start together wait for each other.

    An older SQLite file is copied first. Returns the path of the copy, None without one.
    Raises DatabaseTooNew, ForeignDatabase, ReadOnlyHome, DiskFull, Unavailable.
    """
    try:
        with _migration_lock(database.engine):
            return _migrate(database)
    except DBAPIError as error:
        raise from_database_error(error) from error


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
    if "full" in message or "no space" in message or "disk i/o error" in message:
        return DiskFull("the database has no space left: free some on its disk and try again")
    if "readonly" in message or "read-only" in message or "unable to open" in message or "permission denied" in message:
        return ReadOnlyHome(
            f"the database cannot be written ({error.orig}): set ELASTICVIT_HOME to a folder you may write"
        )
    if "not a database" in message or "malformed" in message:
        return DamagedDatabase(
            f"the database is damaged ({error.orig}): stop the service, and put a backup in its place or move it away"
        )
    return _unavailable(error)


def _unavailable(error: DBAPIError) -> Unavailable:
    state, first = getattr(error.orig, "sqlstate", None), str(error.orig).partition("\n")[0]
    if state in CONFLICTS:
        return Unavailable("another transaction changed the same rows at the same time: nothing was changed, try again")
    if error.connection_invalidated or state in AWAY or "connection" in first:
        return Unavailable(f"the database is away ({first}): try again, requests go through as soon as it is back")
    return Unavailable(f"the database refused the transaction, try again: {first}")


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

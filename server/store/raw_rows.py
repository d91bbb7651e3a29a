"""One row as the database holds it, for reads of one thing: JSON stays text, nothing is made of it.

Most requests ask for a thing that did not change since somebody asked before. The row's digest tells that for a
fraction of what the row's objects cost, and it can never be out of date, as a version number could be that one of many
writers forgot.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from anyio.to_thread import run_sync
from sqlalchemy import JSON, Table
from sqlmodel import Session, SQLModel

from server.store.db import Database
from server.store.hints import Hints, device_topic
from server.store.sqlite_file import identity
from server.version import VERSION

SEPARATOR, NULL = "\x1f", "\x00"


class Connections:
    """Connections of the driver, outside of any transaction, for single statements that only read: as many as there are
    threads that read at the same time."""

    def __init__(self, database: Database) -> None:
        self.is_postgres = database.engine.dialect.name == "postgresql"
        self._url = database.engine.url
        self._lock = threading.Lock()
        self._idle: list[tuple[Any, tuple[int, int] | None]] = []

    def first(self, statement: str, values: Sequence[object]) -> Sequence[Any] | None:
        """The first row. Raises one of `driver_errors`, also where the file of the database is gone."""
        place = None if self.is_postgres else identity(Path(str(self._url.database)))
        connection = self._taken(place)
        row: Sequence[Any] | None = connection.execute(statement, values).fetchone()
        with self._lock:
            self._idle.append((connection, place))
        return row

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop()[0].close()

    def _taken(self, place: tuple[int, int] | None) -> Any:  # noqa: ANN401  a connection of sqlite3 or psycopg
        """A connection to the file that has the name now."""
        with self._lock:
            while self._idle:
                connection, opened = self._idle.pop()
                if opened == place:
                    return connection
                connection.close()
        if self.is_postgres:
            import psycopg

            text = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
            return psycopg.connect(text, autocommit=True)
        # Never waits: while SQLite recovers a file, the caller reads it as usual, in a thread.
        file = f"file:{quote(os.fsencode(str(self._url.database)))}?mode=rw"
        connection = sqlite3.connect(file, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA query_only=ON")
        return connection


class QueuedFor:
    """Whether measuring jobs are queued for devices. SQLite answers within microseconds, without a thread. A
    claim that waits for at least `look_seconds` needs no answer of the database where no hint has come since the last
    one: if a hint was lost, the look for all who wait finds the job."""

    def __init__(
        self, connections: Connections, hints: Hints, reads: anyio.CapacityLimiter, look_seconds: float
    ) -> None:
        self._connections, self._hints, self._reads, self._look_seconds = connections, hints, reads, look_seconds

    async def is_empty(self, devices: Sequence[str], wait_seconds: float) -> bool:
        """True where no job is queued for them; False where one is, and where it is not known without waiting."""
        topics = [device_topic(name) for name in devices]
        if wait_seconds >= self._look_seconds and self._hints.quiet(topics):
            return True
        self._hints.note_quiet(topics)
        if self._connections.is_postgres:
            is_empty = await run_sync(self._is_empty, devices, limiter=self._reads)
        else:
            is_empty = self._is_empty(devices)
        if not is_empty:
            self._hints.forget_quiet(topics)
        return is_empty

    def _is_empty(self, devices: Sequence[str]) -> bool:
        places = ", ".join(["%s" if self._connections.is_postgres else "?"] * len(devices))
        statement = f"SELECT 1 FROM job WHERE status = 'queued' AND kind = 'measure' AND device IN ({places}) LIMIT 1"
        try:
            return self._connections.first(statement, devices) is None
        except driver_errors():
            return False


class RawRows:
    """Reads the columns of `tables` that belong to one id; `joined` says how the tables belong together.

    The columns of `fixed` are left out: long ones that never change, or only together with others.
    """

    def __init__(
        self, connections: Connections, tables: Sequence[type[SQLModel]], joined: str = "", fixed: Collection[str] = ()
    ) -> None:
        self._connections = connections
        named = ((table, column.name) for table in map(_table, tables) for column in table.columns)
        columns = ", ".join(self._column(table, name) for table, name in named if name not in fixed)
        first = _table(tables[0]).name
        place = "%s" if self._connections.is_postgres else "?"
        self._statement = f"SELECT {columns} FROM {first} {joined} WHERE {first}.id = {place}"
        self._kind = f"{VERSION}{SEPARATOR}{first}"

    @property
    def reads_at_once(self) -> bool:
        """Whether `digest` answers within microseconds, so that it needs no thread of its own."""
        return not self._connections.is_postgres

    def digest(self, thing_id: str) -> str | None:
        """The digest of the row as it is now; None without a row, and where it cannot be read now or like this."""
        try:
            row = self._connections.first(self._statement, (thing_id,))
        except driver_errors():
            return None  # the caller reads the row as usual, and finds what is wrong
        return None if row is None else self._of(row)

    def digest_in(self, session: Session, thing_id: str) -> str | None:
        """The same in the snapshot of a session."""
        row = session.connection().exec_driver_sql(self._statement, (thing_id,)).fetchone()
        return None if row is None else self._of(row)

    def _column(self, table: Table, name: str) -> str:
        column = f'{table.name}."{name}"'
        return f"{column}::text" if self._connections.is_postgres and isinstance(table.c[name].type, JSON) else column

    def _of(self, row: Sequence[object]) -> str:
        text = SEPARATOR.join([self._kind, *(NULL if value is None else str(value) for value in row)])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _table(model: type[SQLModel]) -> Table:
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def driver_errors() -> tuple[type[Exception], ...]:
    try:
        import psycopg
    except ImportError:
        return (sqlite3.Error, UnicodeError, ValueError)
    return (sqlite3.Error, psycopg.Error, UnicodeError, ValueError)

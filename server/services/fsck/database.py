"""The database itself: its pages and references, and whether every row can be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Table, func, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlmodel import SQLModel

from server.errors import InfraError, ServerError
from server.services.fsck.finding import Finding
from server.store.db import Database, from_database_error, is_current

MOST = 10
RESTORE = "Stop the service, move farm.db with its -wal and -shm away, and put a backup in its place"


def check_file(file: Path) -> Iterator[Finding]:
    """The pages of an SQLite file and its references. Nothing is written."""
    if not file.is_file():
        yield Finding(
            f"There is no database {file}: tokens, jobs, searches and measurements are lost",
            "Put a backup in its place, or start the service, which makes an empty one",
        )
        return
    if file.stat().st_size == 0:
        yield Finding(
            f"The database {file} is empty: tokens, jobs, searches and measurements are lost",
            "Put a backup in its place, or remove the file to start with an empty database",
        )
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            yield from _check_pages(connection, file)
    except sqlite3.Error as error:
        yield Finding(f"The database {file} is damaged ({error})", RESTORE)


def _check_pages(connection: sqlite3.Connection, file: Path) -> Iterator[Finding]:
    wrong = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({MOST})") if row[0] != "ok"]
    if wrong:
        first = wrong[0].replace("\n", " ")
        yield Finding(f"The database {file} is damaged ({first}; {len(wrong)} such or more)", RESTORE)
        return
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(MOST):
        yield Finding(
            f"Row {row} of the database's {table} belongs to a {parent} that is not there",
            "Restore a backup from before; what is in that row may be shown wrongly",
        )


def check_rows(database: Database) -> Iterator[Finding]:
    """Whether every row of every table can be read. Raises InfraError where the database cannot be asked at all."""
    try:
        if not is_current(database):
            raise InfraError("the database is of another version: start the service once, or check with that version")
        tables = set(inspect(database.engine).get_table_names())
    except DBAPIError as error:
        raise from_database_error(error) from error
    for table in SQLModel.metadata.sorted_tables:
        if table.name not in tables:
            yield Finding(f"The database lacks its table {table.name}", RESTORE)
        elif (why := _unreadable(database, table)) is not None:
            yield Finding(f"Rows of the database's table {table.name} cannot be read ({why})", RESTORE)


def _unreadable(database: Database, table: Table) -> str | None:
    try:
        with database.read() as session:
            counted = session.execute(select(func.count()).select_from(table)).scalar_one()
            read = sum(1 for _ in session.execute(select(table)).yield_per(1000))
        return None if read >= counted else f"{read} of {counted} rows"
    except ServerError as error:
        return error.detail
    except (SQLAlchemyError, ValueError, TypeError) as error:
        return str(getattr(error, "orig", error))

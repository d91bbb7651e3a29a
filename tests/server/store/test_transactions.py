"""Transactions: what a read sees, and the errors of two that conflict."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, func, select, update

from server.errors import Unavailable
from server.services import job_ends, jobs
from server.store.db import Database, from_database_error
from server.store.tables import Job
from server.wire import JobKind
from tests.server.server_farm import START


def queue(database: Database) -> str:
    with database.write() as session:
        return jobs.enqueue(session, kind=JobKind.SEARCH, now=START).id


def test_a_read_sees_no_commit_made_after_its_first_statement(database: Database) -> None:
    first = queue(database)
    with database.read() as reading:
        assert reading.exec(select(func.count()).select_from(Job)).one() == 1
        queue(database)
        with database.write() as writing:
            job_ends.cancel(writing, first, START)
        assert reading.exec(select(func.count()).select_from(Job)).one() == 1
        assert reading.exec(select(Job.status)).all() == ["queued"]
    with database.read() as reading:
        assert reading.exec(select(func.count()).select_from(Job)).one() == 2
        assert jobs.get(reading, first).status == "cancelled"


def test_a_read_sees_what_was_committed_before_its_first_statement(database: Database) -> None:
    with database.read() as reading:
        job_id = queue(database)
        assert jobs.get(reading, job_id).status == "queued"


def test_what_is_changed_in_a_read_is_not_kept(database: Database) -> None:
    job_id = queue(database)
    with database.read() as reading:
        try:
            reading.execute(update(Job).values(status="succeeded"))
        except DBAPIError:
            reading.rollback()  # PostgreSQL refuses it at once
    with database.read() as reading:
        assert jobs.get(reading, job_id).status == "queued"


def test_after_a_read_the_same_connection_writes(database: Database) -> None:
    """Connections are shared: that one read, read-only, must not stay with it."""
    for _ in range(3):
        with database.read() as reading:
            reading.exec(select(Job.id)).all()
        queue(database)


def test_of_two_deadlocked_writes_one_fails_and_may_be_retried(database: Database) -> None:
    """PostgreSQL ends one of them; in SQLite they come one after the other."""
    ids = [queue(database), queue(database)]
    both = Barrier(2)

    def write(order: list[str]) -> Exception | None:
        try:
            with database.write() as session:
                for number, job_id in enumerate(order):
                    session.execute(update(Job).where(col(Job.id) == job_id).values(priority=1))
                    if number == 0 and database.engine.dialect.name == "postgresql":
                        both.wait()
        except DBAPIError as error:
            return from_database_error(error)
        return None

    with ThreadPoolExecutor(2) as pool:
        errors = [error for error in pool.map(write, (ids, ids[::-1])) if error is not None]
    if database.engine.dialect.name == "sqlite":
        assert errors == []
    else:
        (error,) = errors
        assert isinstance(error, Unavailable) and "try again" in str(error) and "at the same time" in str(error)
    with database.read() as session:
        assert session.exec(select(Job.priority)).all() == [1, 1]


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "\\u0000"])
def test_json_columns_take_any_text(database: Database, value: str) -> None:
    with database.write() as session:
        job_id = jobs.enqueue(session, kind=JobKind.SEARCH, now=START, payload={value: value}).id
    with database.read() as session:
        (item,) = jobs.get(session, job_id).payload.items()
    assert item[0] == item[1] and "\0" not in item[0] and item[0].encode()

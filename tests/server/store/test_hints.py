"""Hints: sent after the commit, to this process and to the others of the same database, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from server.store.db import Database
from server.store.hints import COMPUTE, hint

PATIENCE_SECONDS = 60


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """The same database as another process opens it; it listens."""
    opened = Database(database.engine.url.render_as_string(hide_password=False))
    opened.hints.listen()
    if opened.hints.postgres is not None:
        assert opened.hints.postgres.listening(PATIENCE_SECONDS)
    yield opened
    opened.close()


def test_a_commit_wakes_those_who_wait_for_its_topics(database: Database) -> None:
    mine, another = database.hints.waiter("mine"), database.hints.waiter("another")
    with database.write() as session:
        hint(session, "mine")
        assert not mine.is_set()
    assert mine.wait(PATIENCE_SECONDS) and not another.is_set()


def test_a_transaction_that_is_rolled_back_wakes_nobody(database: Database) -> None:
    mine = database.hints.waiter("mine")
    with pytest.raises(ZeroDivisionError), database.write() as session:
        hint(session, "mine")
        _ = 1 / 0
    assert not mine.is_set()


def test_two_processes_of_one_database_wake_each_other(database: Database, other: Database) -> None:
    there, here = other.hints.waiter(), database.hints.waiter("job:job-1")
    with database.write() as session:
        hint(session, COMPUTE)
    assert there.wait(PATIENCE_SECONDS)
    database.hints.listen()
    if database.hints.postgres is not None:
        assert database.hints.postgres.listening(PATIENCE_SECONDS)
    with other.write() as session:
        hint(session, "job:job-1")
    assert here.wait(PATIENCE_SECONDS)


def test_many_topics_in_one_transaction_wake_everybody_elsewhere(database: Database, other: Database) -> None:
    there = other.hints.waiter("job:job-7")
    with database.write() as session:
        hint(session, *(f"job:job-{number:0100}" for number in range(200)))
    assert there.wait(PATIENCE_SECONDS)


def test_a_subscription_ends(database: Database) -> None:
    woken = threading.Event()
    with database.hints.subscribed(["mine"], woken.set):
        assert database.hints.topics("mi") == ["ne"]
    database.hints.after_commit(["mine"])
    assert not woken.is_set() and database.hints.topics("mi") == []


def test_writers_of_one_process_take_turns_without_waiting_in_the_database(database: Database) -> None:
    """A writer that waits must not hold a connection in SQLite's busy handler, which sleeps ever longer."""
    entered, go_on, second = threading.Event(), threading.Event(), threading.Event()

    def first_writer() -> None:
        with database.write():
            entered.set()
            go_on.wait(PATIENCE_SECONDS)

    def second_writer() -> None:
        with database.write():
            second.set()

    threads = [threading.Thread(target=first_writer)]
    threads[0].start()
    assert entered.wait(PATIENCE_SECONDS)
    if database.engine.dialect.name == "sqlite":
        threads.append(threading.Thread(target=second_writer))
        threads[1].start()
        with database.read():  # readers wait for nobody
            assert database.engine.pool.checkedout() <= 2  # type: ignore[attr-defined]
        assert not second.is_set()
    go_on.set()
    for thread in threads:
        thread.join()
    assert second.is_set() or database.engine.dialect.name != "sqlite"

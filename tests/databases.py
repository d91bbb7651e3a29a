"""Fixtures of empty databases, SQLite and PostgreSQL alike. `tests/conftest.py` makes them known to all tests."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pgserver.postgres_server import PostgresServer, get_server

from server.store.db import Database, migrate

STOP_SECONDS = 30
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, from PyPI."""
    with postgres_server() as server:
        yield server


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that ends with the block.

    Started by root, it runs as another user. Its data are outside pytest's folder, because every other pytest that root
    starts on the machine closes that folder to other users.
    """
    folder = Path(tempfile.mkdtemp(prefix="elasticvit-postgres-"))
    try:
        server = get_server(folder, cleanup_mode=None)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        pytest.skip(f"PostgreSQL does not start here: {error!r}")
    for setting in ("fsync = off", "full_page_writes = off"):  # it only lives as long as the tests
        server.psql(f"alter system set {setting};")
    server.psql("select pg_reload_conf();")
    try:
        yield server
    finally:
        stop_postgres(server)
        shutil.rmtree(folder, ignore_errors=True)


def stop_postgres(server: PostgresServer) -> None:
    """Stop a PostgreSQL server without the checkpoint of a regular stop; it may be started again."""
    pid_file = Path(server.pgdata) / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
    deadline_s = time.monotonic() + STOP_SECONDS
    while pid_file.exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """An empty database."""
    name = f"farm{next(_numbers)}"
    postgres.psql(f"create database {name};")
    url: str = postgres.get_uri(database=name)
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'farm.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    migrate(opened)
    yield opened
    opened.close()

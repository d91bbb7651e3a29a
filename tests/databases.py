"""Fixtures of empty databases, SQLite and PostgreSQL alike. `tests/conftest.py` makes them known to all tests."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgserver.postgres_server import PostgresServer, get_server

from server.store.db import Database, migrate

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, from PyPI.

    Started by root, it runs as another user. Its data are outside pytest's folder, because every other pytest that root
    starts on the machine closes that folder to other users.
    """
    try:
        server = get_server(tempfile.mkdtemp(prefix="elasticvit-postgres-"), cleanup_mode="delete")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        pytest.skip(f"PostgreSQL does not start here: {error!r}")
    for setting in ("fsync = off", "full_page_writes = off"):  # it only lives as long as the tests
        server.psql(f"alter system set {setting};")
    server.psql("select pg_reload_conf();")
    yield server
    server.cleanup()


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

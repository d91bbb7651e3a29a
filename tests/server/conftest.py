"""A real app on a real home folder, driven over HTTP through ASGI."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pgserver.postgres_server import PostgresServer, get_server

from server.api.app import create_app
from server.compute.exporting.exporter import ChildExporter
from server.compute.exporting.process import Limits
from server.settings import Settings
from server.store.db import Database, migrate
from tests.server.compute.exporting_farm import MEMORY, NOWHERE, served
from tests.server.server_farm import Clock, Farm, TestClient
from tests.server.supernet_files import supernet_file

_numbers = itertools.count()


@pytest.fixture
def make_farm(tmp_path: Path) -> Iterator[Callable[..., Farm]]:
    """Farms on `tmp_path/home`; making one again is a restart."""
    open_clients: list[TestClient] = []

    def make(clock: Clock | None = None, **settings: Any) -> Farm:  # noqa: ANN401
        while open_clients:
            open_clients.pop().__exit__(None, None, None)
        clock = clock or Clock()
        home = tmp_path / "home"
        # The sweep is called by hand, so that nothing depends on when it runs.
        chosen: dict[str, Any] = {"home": home, "lease_seconds": 60, "sweep_seconds": 3600, **settings}
        app = create_app(Settings(**chosen), clock)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        open_clients.append(client)
        return Farm(client=client, clock=clock, home=home, state=app.state.server)

    yield make
    while open_clients:
        open_clients.pop().__exit__(None, None, None)


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


@pytest.fixture
def any_farm(make_farm: Callable[..., Farm], database_url: str) -> Farm:
    """A farm on each kind of database."""
    return make_farm(database_url=database_url)


@pytest.fixture
def farm(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm()


@pytest.fixture(scope="module")
def child() -> Iterator[ChildExporter]:
    exporter = ChildExporter(Limits(120, MEMORY))
    exporter.start()
    yield exporter
    exporter.close()


@pytest.fixture
def supernet(farm: Farm, tmp_path: Path) -> str:
    return served(farm, supernet_file(tmp_path / "tiny.safetensors", data=NOWHERE))

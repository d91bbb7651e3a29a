"""A real app on a real home folder, driven over HTTP through ASGI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.api.app import create_app
from server.compute.exporting.exporter import ChildExporter
from server.compute.exporting.process import Limits
from server.settings import Settings
from tests.server.compute.exporting_farm import MEMORY, NOWHERE, served
from tests.server.server_farm import Clock, Farm, TestClient
from tests.server.supernet_files import supernet_file


@pytest.fixture
def make_farm(tmp_path: Path) -> Iterator[Callable[..., Farm]]:
    """Farms on `tmp_path/home`; making one again is a restart."""
    open_clients: list[TestClient] = []

    def make(clock: Clock | None = None, **settings: Any) -> Farm:  # noqa: ANN401
        while open_clients:
            open_clients.pop().__exit__(None, None, None)
        clock = clock or Clock()
        home = tmp_path / "home"
        # The sweep is called by hand, and conversions are waited for: nothing depends on the speed of the machine.
        waits = {"lease_seconds": 60, "sweep_seconds": 3600, "look_seconds": 3600, "convert_wait_seconds": 600}
        chosen: dict[str, Any] = {"home": home, **waits, **settings}
        app = create_app(Settings(**chosen), clock)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        open_clients.append(client)
        return Farm(client=client, clock=clock, home=home, state=app.state.server)

    yield make
    while open_clients:
        open_clients.pop().__exit__(None, None, None)


@pytest.fixture
def any_farm(make_farm: Callable[..., Farm], database_url: str) -> Farm:
    """A farm on each kind of database."""
    return make_farm(database_url=database_url)


@pytest.fixture
def farm(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm()


@pytest.fixture(scope="module")
def child() -> Iterator[ChildExporter]:
    exporter = ChildExporter(Limits(3600, MEMORY))
    exporter.start()
    yield exporter
    exporter.close()


@pytest.fixture
def supernet(farm: Farm, tmp_path: Path) -> str:
    return served(farm, supernet_file(tmp_path / "tiny.safetensors", data=NOWHERE))

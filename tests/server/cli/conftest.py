"""A real server on a socket, and the commands as their users call them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
import uvicorn
from typer.testing import CliRunner, Result

from server.cli import client
from tests.server.server_farm import Farm

SERVER_VARIABLES = ("ELASTICVIT_URL", "ELASTICVIT_TOKEN", "ELASTICVIT_HOME")
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """A farm whose app also answers on a socket."""

    farm: Farm
    url: str


@pytest.fixture
def served(farm: Farm) -> Iterator[Served]:
    # The server runs in this process: what it logs must not stand in the output of a command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    server = uvicorn.Server(uvicorn.Config(farm.client.app, port=0, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        assert time.monotonic() < deadline_s, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(farm, f"http://127.0.0.1:{port}")
    server.should_exit = True
    thread.join(PATIENCE_SECONDS)
    structlog.reset_defaults()


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls a client command with the environment that is given and no other variable of ours."""
    for name in SERVER_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str | Path, **environment: str) -> Result:
        variables: dict[str, str | None] = {"ELASTICVIT_HOME": str(tmp_path / "no-home"), **environment}
        return CliRunner(env=variables).invoke(client.app, [str(argument) for argument in arguments])

    return invoke

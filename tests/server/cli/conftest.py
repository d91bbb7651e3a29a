"""A real server on a socket, and the commands as their users call them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from server.cli import client
from tests.server.server_farm import Farm, on_a_socket

SERVER_VARIABLES = ("ELASTICVIT_URL", "ELASTICVIT_TOKEN", "ELASTICVIT_HOME")


@dataclass(frozen=True)
class Served:
    """A farm whose app also answers on a socket."""

    farm: Farm
    url: str


@pytest.fixture
def served(farm: Farm) -> Iterator[Served]:
    # The server runs in this process: what it logs must not stand in the output of a command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with on_a_socket(farm) as url:
        yield Served(farm, url)
    structlog.reset_defaults()


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls a client command with the environment that is given and no other ELASTICVIT_ variable."""
    for name in SERVER_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str | Path, **environment: str) -> Result:
        variables: dict[str, str | None] = {"ELASTICVIT_HOME": str(tmp_path / "no-home"), **environment}
        return CliRunner(env=variables).invoke(client.app, [str(argument) for argument in arguments])

    return invoke

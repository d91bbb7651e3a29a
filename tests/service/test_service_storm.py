"""A service whose processes are killed all the time: nothing is lost, doubled or stuck, on both databases.

`python -m benchmarks.soak` does the same for two hours.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlmodel import SQLModel

from benchmarks.soak.client import Client
from benchmarks.soak.plan import Amounts
from benchmarks.soak.run import READY_SECONDS, Soak
from benchmarks.soak.service import Service
from server.store.db import Database, migrate
from tests.service.service_farm import environment, free_port, left_behind, processes, rows, wait_until

SEED = 12
STORM = Amounts(searches=30, uploads=20, measurements=10, kills=24)
PAUSE_SECONDS = 1.0
DRAIN_SECONDS = 600.0
STRUCK = ("quarantined", "benchmark", "the exporting process ended by signal SIGKILL")


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, home: Path) -> Iterator[Service]:
    """`elasticvit up` on the calibrated home."""
    port = free_port()
    env = {name: value for name, value in environment(home, port).items() if os.environ.get(name) != value}
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        move(home, url)
        env["ELASTICVIT_DATABASE_URL"] = url
    started = Service(home, port, env)
    started.start()
    yield started
    started.kill_all()


@pytest.mark.long
@pytest.mark.slow
def test_a_storm_of_kills_loses_and_doubles_nothing(service: Service) -> None:
    client = Client(service.home, service.port)
    client.wait_ready(READY_SECONDS)
    soak = Soak(service, client, random.Random(SEED), PAUSE_SECONDS, print)
    verdict = soak.run(STORM, DRAIN_SECONDS).verdict
    client.close()
    assert (verdict.lost, verdict.doubled, verdict.stuck) == (0, 0, 0), verdict
    # A session that was killed three times is quarantined, and an export that was killed is tried once more: a job
    # that the storm strikes that often fails. Nothing else may fail.
    assert verdict.outcomes.get("cancelled", 0) == 0, verdict
    assert all(any(reason in failure for reason in STRUCK) for failure in verdict.failures), verdict
    assert verdict.verified > 0, verdict
    wait_until("clean home", lambda: left_behind(service.home) == [])
    assert service.stop() == 0
    assert processes(service.home) == {}
    if "ELASTICVIT_DATABASE_URL" not in service.env:
        assert rows(service.home, "PRAGMA integrity_check") == [("ok",)]
        assert rows(service.home, "PRAGMA foreign_key_check") == []


def move(home: Path, url: str) -> None:
    """Copy what the SQLite file of a home holds into an empty database."""
    source, target = Database(f"sqlite:///{home / 'farm.db'}"), Database(url)
    migrate(target)
    with source.read() as old, target.write() as new:
        for table in SQLModel.metadata.sorted_tables:
            # Jobs refer to older jobs, and ids sort by age.
            found = [dict(row) for row in old.execute(select(table).order_by(*table.primary_key)).mappings()]
            if found:
                new.execute(insert(table), found)
    source.close()
    target.close()

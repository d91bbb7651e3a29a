"""The queue, the agents' protocol and the schema once more, on a real PostgreSQL server that comes from PyPI."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from pgserver.postgres_server import PostgresServer, get_server
from sqlmodel import SQLModel

from server.store.db import Database, migrate
from tests.server.api.test_agents import (  # noqa: F401 - the same tests, with this module's fixtures
    test_a_cancelled_job_refuses_its_report,
    test_a_host_calibrates_nothing_while_a_search_runs,
    test_a_job_is_leased_measured_and_stored,
    test_an_agent_killed_in_the_middle_loses_its_lease_and_its_late_report,
    test_measurements_are_normalised_by_the_anchor,
    test_of_two_agents_that_claim_one_job_one_gets_it,
    test_one_agent_asking_many_times_at_once_gets_it_once,
    test_the_same_report_twice_is_stored_once,
    test_two_equal_reports_at_once_are_stored_once,
)
from tests.server.compute.test_export_cache import test_only_what_was_measured_is_found_again  # noqa: F401
from tests.server.server_farm import Farm
from tests.server.services.test_job_queue import (  # noqa: F401
    clock,
    test_a_child_is_queued_once,
    test_a_failed_transaction_changes_nothing,
    test_a_job_that_kills_its_workers_is_quarantined,
    test_of_many_claimers_exactly_one_gets_each_job,
)
from tests.server.services.test_model_latency import (  # noqa: F401
    model_id,
    test_two_words_at_once_are_both_kept,
)

pytestmark = pytest.mark.slow
_numbers = itertools.count()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    running = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield running
    running.cleanup()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """An empty database."""
    name = f"farm{next(_numbers)}"
    postgres.psql(f"create database {name};")
    url: str = postgres.get_uri(database=name)
    return url


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    opened = Database(postgres_url)
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def farm(make_farm: Callable[..., Farm], postgres_url: str) -> Farm:
    return make_farm(database_url=postgres_url)


def test_the_migrations_make_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []

"""The agents' protocol and the schema once more, on a real PostgreSQL server that comes from PyPI."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
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
from tests.server.services.test_model_latency import (  # noqa: F401
    model_id,
    test_concurrent_updates_of_a_manifest_are_both_kept,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def farm(make_farm: Callable[..., Farm], postgres_url: str) -> Farm:
    return make_farm(database_url=postgres_url)


def test_the_migrations_make_the_tables(postgres_url: str) -> None:
    database = Database(postgres_url)
    migrate(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    database.close()

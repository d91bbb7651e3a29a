"""A farm that searches can be run on."""

from __future__ import annotations

import pytest

from elasticvit.latency.predictor import uncalibrated
from server.compute.supernet_cache import SupernetCache
from tests.server.compute.exporting_farm import compute_of
from tests.server.compute.jobs.scripted_search import Setting
from tests.server.server_farm import Farm


@pytest.fixture
def setting(farm: Farm, supernet: str) -> Setting:
    farm.agent()
    served = SupernetCache(compute_of(farm)).get(supernet)
    return Setting(farm, served, uncalibrated(served.space))

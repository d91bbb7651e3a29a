"""A farm with a real socket, and real agent processes that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device_agent.agent_farm import Farm, make_farm


@pytest.fixture
def agent_farm(tmp_path: Path) -> Iterator[Farm]:
    farm = make_farm(tmp_path)
    try:
        yield farm
    finally:
        farm.end()

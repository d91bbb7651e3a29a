"""For all tests: one thread for numeric libraries, and random numbers that depend on nothing but the test.

Several processes that each spin two threads on two cores take many times as long as ones that take turns.
"""

import os
import random
import sys

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
pytest_plugins = ["tests.databases"]
SEED = 0
LONG = "ELASTICVIT_TEST_LONG"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip long tests, with the reason, unless they are wanted."""
    if os.environ.get(LONG):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes half a minute or more; run by `make test-all`"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Numbers drawn from global generators are the same in every order of tests."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)

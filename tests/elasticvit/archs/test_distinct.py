"""Distinct rows of codes, against NumPy's."""

import numpy as np
import pytest

from elasticvit.archs.distinct import distinct, first_rows
from elasticvit.archs.space import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_rows_are_those_of_numpy(name: str) -> None:
    space, rng = PRESETS[name](), np.random.default_rng(0)
    codes = space.sample(rng, 500)
    codes = codes[rng.integers(0, len(codes), 2000)]
    rows, first = np.unique(codes, axis=0, return_index=True)
    assert len(rows) < len(codes)
    assert np.array_equal(first_rows(codes), first) and np.array_equal(distinct(codes), rows)
    assert distinct(codes).dtype == codes.dtype


@pytest.mark.parametrize("dimensions", [1, 7, 8, 9, 17])
def test_rows_of_any_length_and_the_largest_values(dimensions: int) -> None:
    codes = np.random.default_rng(1).choice(np.array([0, 1, 126, 127], np.int8), (300, dimensions))
    assert np.array_equal(first_rows(codes), np.unique(codes, axis=0, return_index=True)[1])


def test_no_rows() -> None:
    assert first_rows(np.zeros((0, 5), np.int8)).shape == (0,)

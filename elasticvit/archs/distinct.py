"""Distinct rows of codes."""

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.space import Codes

WORD_BYTES = 8


def first_rows(codes: Codes) -> NDArray[np.intp]:
    """Index of the first of each distinct row, shape (m,), in the lexicographic order of the rows.

    For codes that are not negative, as those of members, the same as `np.unique(codes, axis=0, return_index=True)[1]`.
    NumPy compares rows byte by byte; here eight positions are one integer. Most of a search's time went into that.
    """
    n, dimensions = codes.shape
    padded = np.zeros((n, -(-dimensions // WORD_BYTES) * WORD_BYTES), np.uint8)
    padded[:, :dimensions] = codes
    words = padded.view(">u8").astype(np.uint64)
    order = np.lexsort(words.T[::-1])
    ordered = words[order]
    new = np.ones(n, np.bool_)
    new[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    return np.asarray(order[new])


def distinct(codes: Codes) -> Codes:
    """The distinct rows in lexicographic order, shape (m, D)."""
    rows: Codes = codes[first_rows(codes)]
    return rows

"""Device rates as the baseline of every block's time: time per MAC, per byte and per block.

Rates are fitted to be non-negative, so that predictions are positive and sensible far from the measured blocks, where a
forest does not extrapolate. Every kind of block has rates of its own, shrunk towards those of all kinds: with three
rows, a kind has nearly the common rates, with thirty its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from elasticvit.costs.blocks import Block, BlockKind
from elasticvit.latency.features import Work, work_rows
from elasticvit.latency.rows import BlockRow

RATES = (*Work.__dataclass_fields__, "constant")
# Strength of the shrinkage towards the common rates, as a number of rows.
POOLING_ROWS = 2.0


@dataclass(frozen=True)
class Prior:
    """Milliseconds per unit of each of `RATES`, for every kind of block."""

    rates: Mapping[BlockKind, NDArray[np.float64]]

    def predict_ms(self, blocks: Sequence[Block]) -> NDArray[np.float64]:
        """Time of each block, shape (n,), milliseconds; above 0."""
        rates = np.stack([self.rates[block.kind] for block in blocks]) if blocks else np.zeros((0, len(RATES)))
        return np.asarray(np.maximum(np.sum(_design(blocks) * rates, axis=1), 1e-6))


def fit_prior(rows: Sequence[BlockRow]) -> Prior:
    """Rates with the least squared relative errors over all rows; deterministic. Needs at least one row."""
    design, ms = _design([row.block for row in rows]), np.array([row.ms for row in rows])
    # Relative errors: divide by the time itself. Columns are scaled so that one ridge strength suits all of them.
    relative = design / ms[:, None]
    scale = np.maximum(np.sqrt(np.mean(relative**2, axis=0)), 1e-30)
    common = _solve(relative / scale, np.ones(len(ms)), np.zeros(len(scale)), 1e-3 * len(ms))
    kinds = np.array([row.block.kind for row in rows])
    rates = dict.fromkeys(BlockKind, common / scale)
    for kind in sorted(set(kinds)):
        rows_of_kind = kinds == kind
        own = _solve(relative[rows_of_kind] / scale, np.ones(int(rows_of_kind.sum())), common, POOLING_ROWS)
        rates[BlockKind(kind)] = own / scale
    return Prior(rates)


def _design(blocks: Sequence[Block]) -> NDArray[np.float64]:
    return np.hstack([work_rows(blocks), np.ones((len(blocks), 1))])


def _solve(
    design: NDArray[np.float64], target: NDArray[np.float64], centre: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """Non-negative least squares, shrunk towards `centre` with the weight of `strength` rows."""
    pull = np.sqrt(strength / len(centre)) * np.eye(len(centre))
    solution, _ = nnls(np.vstack([design, pull]), np.concatenate([target, pull @ centre]))
    return np.asarray(solution, np.float64)

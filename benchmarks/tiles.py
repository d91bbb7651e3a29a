"""The tile of this machine's matrix kernel, as its times show it.

A kernel computes whole tiles: within one, more rows or columns cost nothing. XNNPACK chooses its kernel by the
processor (on AVX-512 it was 7 rows by 16 columns of float32, where 32 columns were expected), so the tile is measured,
not looked up. For a single row there is a separate kernel, which wastes nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchmarks.interleave import WARM_UP
from elasticvit.export.tflite.flatbuffer import ModelBuilder
from elasticvit.timing import Run, interleave, litert_run

ROWS, COLUMNS = range(2, 17), range(8, 65, 8)
# Rows are counted on a depth and width at which weights stay in the first caches, columns on many tiles of rows.
_ROWS_SHAPE, _COLUMNS_SHAPE = (256, 128), (1680, 256)
_CALLS, _STEP = 40, 1.4


class Tile(NamedTuple):
    """What one call of a matrix kernel computes, however little of it is needed."""

    rows: int
    columns: int


def measured_tile() -> Tile:
    """The tile of XNNPACK's float32 product on the core that this thread is pinned to."""
    depth, width = _ROWS_SHAPE
    rows = tile_length(ROWS, [_best_ms(m, depth, width) for m in ROWS])
    many, depth = _COLUMNS_SHAPE
    return Tile(rows, tile_length(COLUMNS, [_best_ms(many, depth, n) for n in COLUMNS]))


def tile_length(lengths: Sequence[int], times: Sequence[float]) -> int:
    """The last length, in rising order, before time steps up: what fits into one tile.

    Raises:
        ValueError: time does not step up within these lengths.
    """
    for length, time, following in zip(lengths, times, times[1:], strict=False):
        if following > _STEP * time:
            return length
    raise ValueError(f"no step in time up to a length of {lengths[-1]}; measure again on a quieter machine")


def fully_connected(rows: int, depth: int, columns: int) -> bytes:
    """A .tflite of one operator: (rows, depth) → (rows, columns), float32, random weights."""
    rng, model = np.random.default_rng(0), ModelBuilder()
    x, y = model.tensor("x", (rows, depth)), model.tensor("y", (rows, columns))
    weight = model.constant("weight", rng.uniform(-1, 1, (columns, depth)).astype(np.float32))
    bias = model.constant("bias", np.zeros(columns, np.float32))
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    model.operator("FULLY_CONNECTED", 5, [x, weight, bias], [y], options)
    return model.finish({"x": x}, {"y": y}, "main", "one fully connected operator")


def _best_ms(rows: int, depth: int, columns: int) -> float:
    """The shortest of many calls one after another: no disturbance makes a call shorter."""
    run: Run = litert_run(fully_connected(rows, depth, columns))
    return float(interleave({"run": run}, _CALLS, warm_up=WARM_UP)["run"].min())

"""Peak rates of one core of this machine: multiply-accumulates and bytes per second, timed in turns with others.

GEMM: the faster of two fully connected operators of XNNPACK, a few in a row so that operands are in the caches. Memory:
the faster of a dot product over 256 MB in numpy and a fully connected operator that reads 134 MB of weights once.
Elementwise: an addition of two tensors of 0.3 MB, as networks have them, a few in a row, bytes in and out. Rates are of
medians, as are the times they are compared with.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from benchmarks.tiles import fully_connected
from elasticvit.export.tflite.flatbuffer import ModelBuilder
from elasticvit.timing import Run, Timings, litert_run

_GEMM, _THIN = "rate: gemm", "rate: gemm, thin"
_FC, _DOT, _ADD = "rate: memory, fully connected", "rate: memory, dot", "rate: add"
# Rows, depth, columns; the weights of the second stay in the cache next to the core.
GEMMS = {_GEMM: (1152, 512, 512), _THIN: (1120, 384, 64)}
IN_A_ROW = 4
DRAM_DEPTH, DRAM_COLUMNS = 4096, 8192
DOT_BYTES = 256 * 2**20
ADD_SHAPE = (1, 24, 24, 128)


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one core, per second: multiply-accumulates, bytes from memory, and bytes through an elementwise operator."""

    gemm_macs_per_s: float
    dram_bytes_per_s: float
    elementwise_bytes_per_s: float

    def figures(self) -> dict[str, float]:
        return {
            "gemm_gmacs_per_s": round(self.gemm_macs_per_s / 1e9, 1),
            "dram_read_gb_per_s": round(self.dram_bytes_per_s / 1e9, 1),
            "elementwise_gb_per_s": round(self.elementwise_bytes_per_s / 1e9, 1),
        }


def rate_contestants() -> dict[str, Run]:
    """The contestants that `rates` needs, to be merged with others of one interleaved run on one core."""
    return {
        **{name: _in_a_row(litert_run(fully_connected(*shape))) for name, shape in GEMMS.items()},
        _FC: litert_run(fully_connected(1, DRAM_DEPTH, DRAM_COLUMNS)),
        _DOT: _dot(),
        _ADD: _in_a_row(litert_run(addition(ADD_SHAPE))),
    }


def rates(timings: Timings) -> Rates:
    """Rates from the timings of `rate_contestants`, milliseconds."""
    seconds = {name: float(np.median(timings[name])) / 1e3 for name in (*GEMMS, _FC, _DOT, _ADD)}
    memory = max(4 * DRAM_DEPTH * DRAM_COLUMNS / seconds[_FC], DOT_BYTES / seconds[_DOT])
    return Rates(
        gemm_macs_per_s=max(IN_A_ROW * prod(shape) / seconds[name] for name, shape in GEMMS.items()),
        dram_bytes_per_s=memory,
        elementwise_bytes_per_s=IN_A_ROW * 3 * 4 * prod(ADD_SHAPE) / seconds[_ADD],
    )


def addition(shape: tuple[int, ...]) -> bytes:
    """A .tflite that adds two tensors of a shape."""
    model = ModelBuilder()
    a, b, y = (model.tensor(name, shape) for name in ("a", "b", "y"))
    model.operator("ADD", 1, [a, b], [y], schema.AddOptionsT())
    return model.finish({"a": a, "b": b}, {"y": y}, "main", "one addition")


def _in_a_row(run: Run) -> Run:
    def calls() -> object:
        return [run() for _ in range(IN_A_ROW)]

    return calls


def _dot() -> Run:
    """A dot product of two vectors, together `DOT_BYTES`, on one thread."""
    a, b = (np.full(DOT_BYTES // 8, value, np.float32) for value in (0.5, 2.0))
    libraries = ThreadpoolController()

    def call() -> object:
        with libraries.limit(limits=1, user_api="blas"):
            return np.dot(a, b)

    return call

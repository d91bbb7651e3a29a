"""The time of S1 in float32 by kind of operator, and its matrix products against the rates of the core.

Rates of the core and the per-operator profile are measured in turns, since machines drift; figures are medians over
the turns. The bound is `FORMULA`. The profile is of the network alone in a process, from android_bench, so caches keep
part of its weights from run to run and products may be below the bound; `dense_in_turns_ms` is their share of the
unprofiled time in turns with others, when weights are cold.
"""

import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import numpy as np

from android_bench.build import build_host, host_library
from benchmarks.interleave import pinned, progress, rounds, say, spread
from benchmarks.rates import Rates, rate_contestants, rates
from benchmarks.report import Requirement, bars, processor
from benchmarks.tiles import measured_tile
from benchmarks.work import dense_product, dense_work
from device_agent.bench.result import read_result
from elasticvit.archs.published import published
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.ops import Graph
from elasticvit.export.tflite.writer import TfliteFile, write_tflite
from elasticvit.latency.alignment import align
from elasticvit.nn.random_net import random_net
from elasticvit.timing import Timings, interleave, litert_run
from server.wire import OpTime

ARCH = "S1"
TURNS, PROFILED_RUNS = 5, 60
DENSE_OVER_BOUND, OTHERS_SHARE = 1.15, 0.28
FORMULA = "tile-padded MACs of convolutions and fully connected operators / GEMM rate + their bytes / memory rate"
_DENSE, _NETWORK, _UNKNOWN = "conv/FC", "network", "not attributed"
# XNNPACK reports whole microseconds, rounded down.
_ROUNDED_OFF_US = 0.5
_CLASSES = {
    "DEPTHWISE_CONV_2D": "depthwise",
    "BATCH_MATMUL": "batch matmul",
    "SOFTMAX": "softmax",
    "HARD_SWISH": "hard swish",
    "ADD": "add",
    "TRANSPOSE": "transpose",
    "AVERAGE_POOL_2D": "average pool",
    "MUL": "multiply",
    "MEAN": "mean",
}


def figures() -> dict[str, object]:
    """The operator profile by kind, rates of the core, and the time of the products against their bound."""
    graph = fold(random_net(published(ARCH), seed=0))
    file = write_tflite(graph)
    turns = [_turn(graph, file, i) for i in range(TURNS)]
    rates_by_turn = [rates(samples) for samples, _ in turns]
    classes = {name: _middle([parts.get(name, 0.0) for _, parts in turns]) for name in _names(turns)}
    with pinned(1):
        tile = measured_tile()
    work = dense_work(graph, tile)
    bounds_ms = [1e3 * work.seconds(rate) for rate in rates_by_turn]
    dense_ms = [sum(us for name, us in parts.items() if name.startswith(_DENSE)) / 1e3 for _, parts in turns]
    other_shares = [1 - 1e3 * dense / sum(parts.values()) for dense, (_, parts) in zip(dense_ms, turns, strict=True)]
    ratio = _middle([dense / bound for dense, bound in zip(dense_ms, bounds_ms, strict=True)])
    times = np.concatenate([samples[_NETWORK] for samples, _ in turns])
    share = 1 - _middle(other_shares)
    return {
        "processor": processor(),
        "profile_us": bars(classes, "us"),
        "rates": _middle_rates(rates_by_turn).figures(),
        "formula": FORMULA,
        "tile": f"{tile.rows} rows, {tile.columns} columns (measured); a single row is not padded",
        "dense_mmacs": round(sum(op.macs for op in graph.ops if dense_product(op)) / 1e6, 1),
        "tile_padded_mmacs": round(work.padded_macs / 1e6, 1),
        "weight_mb": round(work.weight_bytes / 1e6, 1),
        "bound_ms": round(_middle(bounds_ms), 3),
        "dense_ms": round(_middle(dense_ms), 3),
        "dense_in_turns_ms": round(share * float(np.median(times)), 3),
        "profile_ms": round(sum(classes.values()) / 1e3, 3),
        "unprofiled_in_turns": spread(times),
        "requirements": [
            Requirement("conv and FC / bound", ratio, "at most", DENSE_OVER_BOUND).figure(),
            Requirement(
                "other operators, share of the profile", _middle(other_shares), "at most", OTHERS_SHARE
            ).figure(),
        ],
    }


def _turn(graph: Graph, file: TfliteFile, turn: int) -> tuple[Timings, dict[str, float]]:
    """Timings of the rates and the network in turns, then an operator profile of it alone in microseconds by class."""
    say(f"  rates and profile, turn {turn + 1} of {TURNS}")
    with pinned(1):
        contestants = {_NETWORK: litert_run(file.data), **rate_contestants()}
        samples = interleave(contestants, max(2, rounds(60) // TURNS), warm_up=3, on_round=progress())
        return samples, by_class(graph, file, profile(file.data))


def profile(data: bytes) -> Sequence[OpTime]:
    """The lines of a per-operator profile on one thread, on the one core that this process is pinned to."""
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.tflite"
        model.write_bytes(data)
        command = [str(build_host()), "--model", str(model), "--lib", str(host_library()), "--profile"]
        command += ["--threads", "1", "--runs", str(PROFILED_RUNS), "--cpu-mask", f"{1 << core:x}"]
        done = subprocess.run(command, capture_output=True, check=True)
    return read_result(done.stdout).op_times() or []


def by_class(graph: Graph, file: TfliteFile, lines: Sequence[OpTime]) -> dict[str, float]:
    """Microseconds of one run by kind of operator, products by the grid that they work on."""
    places = align([line.tag for line in lines], [op.builtin for op in file.ops])
    sums: dict[str, float] = defaultdict(float)
    for line, place in zip(lines, places, strict=True):
        time_us = line.avg_us if line.median_us is None else line.median_us
        name = _UNKNOWN if place is None else _class(graph, file, place)
        sums[name] += time_us + (_ROUNDED_OFF_US if time_us >= 1 else 0)
    return dict(sums)


def _class(graph: Graph, file: TfliteFile, place: int) -> str:
    op = graph.ops[place]
    assert op.name == file.ops[place].name
    product = dense_product(op)
    if product is None:
        return _CLASSES.get(file.ops[place].builtin, "rest")
    side = isqrt(product.rows)
    return f"{_DENSE} {side}x{side}" if side > 1 else f"{_DENSE} one row (head, squeeze-excite)"


def _names(turns: list[tuple[Timings, dict[str, float]]]) -> list[str]:
    return sorted({name for _, parts in turns for name in parts})


def _middle(values: list[float]) -> float:
    return float(np.median(values))


def _middle_rates(rates_by_turn: list[Rates]) -> Rates:
    return Rates(
        _middle([rate.gemm_macs_per_s for rate in rates_by_turn]),
        _middle([rate.dram_bytes_per_s for rate in rates_by_turn]),
        _middle([rate.elementwise_bytes_per_s for rate in rates_by_turn]),
    )

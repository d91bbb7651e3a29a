"""Kendall's tau of costs and latencies, over random networks of the paper's space with random weights.

Every network is timed in turns with the same anchor. Its latency is the median of the ratios times the anchor's median
over all sessions, so the drift of the machine cancels.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.interleave import WARM_UP, pinned, progress, rounds, say
from benchmarks.rates import rate_contestants, rates
from benchmarks.tiles import Tile, measured_tile
from benchmarks.work import Work, all_work
from elasticvit.archs.arch import Arch
from elasticvit.archs.published import published
from elasticvit.archs.space import paper
from elasticvit.costs.flops import macs
from elasticvit.errors import ExportError
from elasticvit.export.graph.fold import fold
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.random_net import random_net
from elasticvit.timing import Run, Timings, interleave, litert_run

NETWORKS, TURNS, SEED, ANCHOR = 100, 20, 0, "T1"
_ANCHOR, _NETWORK = "anchor", "network"


def figures() -> dict[str, object]:
    """Kendall's tau of MACs, and of the memory-aware cost, with measured latency; and the measurements."""
    space = paper()
    archs = [space.decode(code) for code in space.sample(np.random.default_rng(SEED), NETWORKS)]
    with pinned(1):
        tile = measured_tile()
        anchor = litert_run(written(published(ANCHOR), tile)[0])
        measured = [_measured(arch, tile, anchor, i) for i, arch in enumerate(archs)]
        rate = rates(interleave(rate_contestants(), rounds(40), warm_up=WARM_UP, on_round=progress()))
    latencies_ms = normalised_ms([samples for samples, _ in measured])
    costs = {
        "macs": np.array([float(macs(arch)) for arch in archs]),
        "memory_aware": np.array([1e3 * work.seconds(rate) for _, work in measured]),
    }
    return {
        "networks": NETWORKS,
        "latency_ms": _range(latencies_ms),
        "mmacs": _range(costs["macs"] / 1e6),
        "rates": rate.figures(),
        "kendall_tau": {name: _tau(cost, latencies_ms) for name, cost in costs.items()},
        "memory_aware_over_measured": _range(costs["memory_aware"] / latencies_ms),
    }


def written(arch: Arch, tile: Tile) -> tuple[bytes, Work]:
    """The file of a network with random weights, and its work. Raises `ExportError` if it lost MACs."""
    graph = fold(random_net(arch, seed=0))
    data = write_tflite(graph).data
    if tflite_macs(data) != macs(arch):
        raise ExportError(f"the file of {arch.id} has {tflite_macs(data)} MACs, the architecture {macs(arch)}")
    return data, all_work(graph, tile)


def normalised_ms(sessions: list[Timings]) -> NDArray[np.float64]:
    """The latency of every session's network, at the speed at which the anchor takes its median over all sessions."""
    anchor_ms = float(np.median([np.median(timings[_ANCHOR]) for timings in sessions]))
    return np.array([anchor_ms * float(np.median(timings[_NETWORK] / timings[_ANCHOR])) for timings in sessions])


def _measured(arch: Arch, tile: Tile, anchor: Run, index: int) -> tuple[Timings, Work]:
    if index % 10 == 0:
        say(f"  network {index + 1} of {NETWORKS}")
    data, work = written(arch, tile)
    return interleave({_NETWORK: litert_run(data), _ANCHOR: anchor}, rounds(TURNS), warm_up=3), work


def _tau(costs: NDArray[np.float64], latencies_ms: NDArray[np.float64]) -> float:
    return round(float(kendalltau(costs, latencies_ms).statistic), 4)


def _range(values: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = (round(float(value), 3) for value in np.percentile(values, [0, 50, 100]))
    return {"min": low, "median": middle, "max": high}

"""Latency of our files against a naive conversion of the same network and against other networks, timed in turns.

A network in several precisions is measured in each, and its fastest one is compared. Peers that are not available
(`ELASTICVIT_PEERS`, `ELASTICVIT_OFFICIAL`), and the ratios that need them, are reported as "not given".
"""

import os
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.conversion import FLOAT32, Converted, converted
from benchmarks.interleave import PROCESSES, fastest, interleave_files, rounds, say, spread
from benchmarks.official import NOT_GIVEN
from benchmarks.peer_models import NAIVE, TIMM
from benchmarks.report import Requirement, processor
from elasticvit.archs.arch import Arch
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.costs.flops import macs
from elasticvit.export.api import export_net
from elasticvit.export.precision import Precision
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.nn.random_net import random_net
from elasticvit.timing import Timings, lower_bound

MIXED = Precision.DYNAMIC_INT8.value
TWO_THREADS = 2
Files: TypeAlias = dict[str, bytes]
# Names of contestants, slower over faster, and the required ratio. `best` stands for a peer's fastest precision.
_S1 = f"S1 {FLOAT32}"
_AT_LEAST: tuple[tuple[str, str, float], ...] = (
    (f"EfficientNet-B0 {FLOAT32}", _S1, 1.6),
    (_S1, f"S1 {MIXED}", 1.6),
    (f"T1 {FLOAT32}", f"T1 {MIXED}", 1.8),
    (f"M {FLOAT32}", f"M {MIXED}", 1.35),
    (f"EfficientNet-B0 {FLOAT32}", f"S1 {MIXED}", 2.6),
)
_ABOVE: tuple[tuple[str, str], ...] = (
    ("MobileNetV3-Large best", f"S1 {MIXED}"),
    ("EfficientNet-B0 best", f"S1 {MIXED}"),
)


def figures() -> dict[str, object]:
    """Medians and spread of every file on one and two threads, and the ratios with their requirements."""
    files, peers = _ours(), _peers()
    for name, peer in peers.items():
        if isinstance(peer, Converted):
            files |= {_label(name, precision): data for precision, data in peer.files.items()}
    one = timed(files, 1)
    two = timed(files, TWO_THREADS) if len(os.sched_getaffinity(0)) >= TWO_THREADS else {}
    return {
        "processor": processor(),
        "rounds": rounds(),
        "peers": {name: _facts(peer) for name, peer in peers.items()},
        "one_thread": {name: spread(times) for name, times in one.items()},
        "best": {name: best(one, name) for name in TIMM if isinstance(peers[name], Converted)},
        "requirements": requirements(one),
        "two_threads": {name: spread(times) for name, times in two.items()},
        "two_threads_ratios": _ratios(two),
    }


def ours(arch: Arch, precision: str) -> bytes:
    """The checked file of a network with random weights. Raises `ExportError`."""
    return export_net(random_net(arch, seed=0), None, precision=Precision(precision)).tflite


def timed(files: Mapping[str, bytes], threads: int) -> Timings:
    """Milliseconds of every file in every round, pinned to as many cores as there are threads."""
    say(f"  {len(files)} files on {threads} thread{'s' * (threads > 1)}")
    return interleave_files(files, rounds(), threads)


def best(samples: Timings, name: str) -> str:
    """The precision in which the named peer is fastest."""
    return fastest(samples, [label for label in samples if label.startswith(f"{name} ")])


def requirements(samples: Timings) -> list[dict[str, object]]:
    """All ratios with requirements; that of the naive conversion by its lower bound, since it is close to one."""
    figures: list[dict[str, object]] = [_naive(samples)]
    for theirs, mine, bound in _AT_LEAST:
        figures.append(_ratio(samples, theirs, mine, "at least", bound))
    for theirs, mine in _ABOVE:
        figures.append(_ratio(samples, theirs, mine, "above", 1.0))
    return figures


def _naive(samples: Timings) -> dict[str, object]:
    pair = _pair(samples, _label(NAIVE, FLOAT32), _S1)
    name = f"{NAIVE} / {_S1}, 95 % lower bound"
    if pair is None:
        return {"name": name, "value": NOT_GIVEN}
    bound = lower_bound(pair)
    middle = round(float(np.median(pair)), 3)
    luck = {
        "lower_bound_over_processes": round(lower_bound(pair, clusters=PROCESSES), 3),
        "by_process": by_process(pair),
    }
    return {**Requirement(name, bound, "above", 1.0).figure(), "median": middle, **luck}


def _ratio(samples: Timings, theirs: str, mine: str, relation: str, bound: float) -> dict[str, object]:
    name = f"{theirs} / {mine}"
    pair = _pair(samples, theirs, mine)
    if pair is None:
        return {"name": name, "value": NOT_GIVEN}
    value = float(np.median(pair))
    made = Requirement(name, value, "above" if relation == "above" else "at least", bound)
    return {**made.figure(), "lower_bound_95": round(lower_bound(pair), 3), "by_process": by_process(pair)}


def by_process(pair: NDArray[np.float64]) -> list[float]:
    """The median ratio in each process: it varies with the addresses of memory, which the bound ignores."""
    return [round(float(np.median(ratios)), 3) for ratios in np.array_split(pair, PROCESSES)]


def _ratios(samples: Timings) -> dict[str, float]:
    """The ratios on two threads, which have no requirements."""
    pairs = [(_label(NAIVE, FLOAT32), _S1), *((theirs, mine) for theirs, mine, _ in _AT_LEAST), *_ABOVE]
    ratios = {f"{theirs} / {mine}": _pair(samples, theirs, mine) for theirs, mine in pairs}
    return {name: round(float(np.median(pair)), 3) for name, pair in ratios.items() if pair is not None}


def _pair(samples: Timings, theirs: str, mine: str) -> NDArray[np.float64] | None:
    """Ratios of the rounds, theirs over mine; None where one of them is missing."""
    name, _, precision = theirs.rpartition(" ")
    if precision == "best" and any(label.startswith(f"{name} ") for label in samples):
        theirs = best(samples, name)
    if theirs not in samples or mine not in samples:
        return None
    return samples[theirs] / samples[mine]


def _ours() -> Files:
    archs = {"S1": published("S1"), "T1": published("T1"), "M": published("M")}
    files = {
        _label(name, precision): ours(arch, precision) for name, arch in archs.items() for precision in (FLOAT32, MIXED)
    }
    further = (Precision.FLOAT16, Precision.INT8)
    files |= {_label("S1", precision): ours(archs["S1"], precision) for precision in further}
    large = small().largest()
    return files | {_label("small largest", precision): ours(large, precision) for precision in Precision}


def _peers() -> dict[str, Converted | str]:
    peers: dict[str, Converted | str] = {}
    for name in (NAIVE, *TIMM):
        try:
            peers[name] = converted(name)
        except FileNotFoundError as error:
            peers[name] = f"{NOT_GIVEN}: {error}"
    naive = peers[NAIVE]
    if isinstance(naive, Converted) and naive.macs != macs(published("S1")):
        raise AssertionError(f"{NAIVE} has {naive.macs} MACs, S1 {macs(published('S1'))}")
    return peers


def _facts(peer: Converted | str) -> object:
    if isinstance(peer, str):
        return peer
    assert all(tflite_macs(data) == peer.macs for data in peer.files.values())
    return {
        "mmacs": round(peer.macs / 1e6, 1),
        "scales_that_were_zero": peer.zero_scales,
        "relative_difference_from_torch": peer.difference,
        "conversion_s": peer.seconds,
        "size_mb": {precision: round(len(data) / 1e6, 1) for precision, data in peer.files.items()},
    }


def _label(name: str, precision: str) -> str:
    return f"{name} {precision}"

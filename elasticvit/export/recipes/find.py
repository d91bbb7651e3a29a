"""Finds a recipe: which groups of operators make a network faster with int8 weights, on the device at hand.

int8 weights pay where reading weights is what takes the time, and cost where quantising the input does; which is which
depends on the processor. So every group is tried by itself in whole networks, measured in turns with the unchanged
network, which puts the groups in an order; then the first few of that order, the first few more, and so on, are tried
together, and the fastest lot is taken. A single group gains one part in a hundred, which is within the noise of a
shared machine, but a wrong place in the order costs little. Last, accuracy: while whole networks lose too much, the
group goes whose int8 weights disturb the logits most for what they gain.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from elasticvit.errors import ExportError
from elasticvit.export.check import run_tflite
from elasticvit.export.fold import fold
from elasticvit.export.graph import Graph
from elasticvit.export.inputs import InputForm
from elasticvit.export.numbers import dynamic_int8, groups_of
from elasticvit.export.quantize import quantise
from elasticvit.export.recipes import Judged, Recipe, Timed
from elasticvit.export.tflite import write_tflite
from elasticvit.export.trial import Trial, as_taken
from elasticvit.flops import macs
from elasticvit.interleaved import Samples, lower_bound, measure_ms
from elasticvit.nn.net import Net
from elasticvit.precision import Precision

ROUNDS = 40
MOST_DROP = 0.01
Report = Callable[[str, int, int], None]
# Logits of so many images tell how much a group disturbs them.
DISTURBED = 32
# Groups by which lots grow.
STEP = 2
# Files in memory at once, each twice: the runtime packs weights anew.
TOGETHER = 16


def find_recipe(
    name: str,
    version_: int,
    space: str,
    nets: Sequence[Net],
    trial: Trial | None = None,
    *,
    judged_on: Mapping[str, str] | None = None,
    rounds: int = ROUNDS,
    most_drop: float = MOST_DROP,
    report: Report = lambda stage, done, total: None,
) -> Recipe:
    """The recipe for networks of a space on this machine, one thread.

    Args:
        nets: in eval mode, from small to large; they stand for all others.
        trial: with the held-out images on which networks are judged; None where the weights are not trained.
        judged_on: what networks and images these are, for the record.
        most_drop: the mean loss of top-1, a part of one, that whole networks may have.

    Raises:
        ExportError: no networks, or LiteRT does not run a file.
    """
    if not nets:
        raise ExportError("a recipe is found by measuring networks; give one or more")
    graphs = [fold(net) for net in nets]
    gains = _gains(graphs, rounds, report)
    chosen = _fastest_lot(graphs, gains, rounds, report)
    judged: tuple[Judged, ...] = ()
    if trial is not None and trial.held_out is not None:
        chosen, judged = _accurate(graphs, chosen, gains, trial, most_drop, report)
    return Recipe(
        name=name,
        version=version_,
        space=space,
        device=this_device(),
        groups=tuple(chosen),
        gains={group: round(part, 4) for group, part in gains.items()},
        timed=_timed(graphs, chosen, rounds, report),
        judged=judged,
        judged_on=dict(judged_on or {}),
    )


def this_device() -> dict[str, str]:
    """What latencies here are latencies of."""
    cpu = platform.processor() or "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "machine": platform.machine(), "litert": version("ai-edge-litert"), "threads": "1"}


def _gains(graphs: Sequence[Graph], rounds: int, report: Report) -> dict[str, float]:
    """The part of latency that each group saves by itself, a mean over networks."""
    # Not every network has every group: a stage of the width before it has no shortcut to widen.
    every = dict.fromkeys(group for graph in graphs for group in groups_of(graph))
    tried = {group: frozenset({group}) for group in every}
    ratios = _ratios(graphs, tried, rounds, "groups", report)
    return {group: float(np.mean([1 - 1 / np.median(each) for each in ratios[group]])) for group in tried}


def _fastest_lot(graphs: Sequence[Graph], gains: Mapping[str, float], rounds: int, report: Report) -> list[str]:
    """The first groups in order of gain, as many as make networks fastest; in order of execution."""
    order = sorted(gains, key=lambda group: -gains[group])
    sizes = sorted({*range(STEP, len(order), STEP), len(order)})
    lots = {str(size): frozenset(order[:size]) for size in sizes}
    ratios = _ratios(graphs, lots, rounds, "lots", report)
    speedups = {name: float(np.mean(np.log([np.median(each) for each in ratios[name]]))) for name in lots}
    best = max(speedups, key=lambda name: speedups[name])
    return [group for group in gains if group in lots[best]] if speedups[best] > 0 else []


def _ratios(
    graphs: Sequence[Graph],
    variants: Mapping[str, frozenset[str]],
    rounds: int,
    stage: str,
    report: Report,
) -> dict[str, list[Samples]]:
    """For every variant and network the float32 latency / its latency, round by round."""
    found: dict[str, list[Samples]] = {name: [] for name in variants}
    names = list(variants)
    lots = [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]
    for i, graph in enumerate(graphs):
        for number, lot in enumerate(lots):
            files = {"": _file(graph, frozenset())} | {name: _file(graph, variants[name]) for name in lot}
            ms = measure_ms(files, rounds)
            for name in lot:
                found[name].append(ms[""] / ms[name])
            report(stage, i * len(lots) + number + 1, len(graphs) * len(lots))
    return found


def _timed(graphs: Sequence[Graph], chosen: Sequence[str], rounds: int, report: Report) -> tuple[Timed, ...]:
    found = []
    for i, graph in enumerate(graphs):
        files = {"float32": _file(graph, frozenset()), "mixed": _file(graph, frozenset(chosen))}
        ms = measure_ms(files, rounds)
        report("whole networks", i + 1, len(graphs))
        before, after = (round(float(np.median(ms[name])), 4) for name in files)
        bound = round(lower_bound(ms["float32"] / ms["mixed"]), 3)
        found.append(Timed(graph.arch.id, round(macs(graph.arch) / 1e6, 2), before, after, bound))
    return tuple(found)


def _accurate(
    graphs: Sequence[Graph],
    chosen: list[str],
    gains: Mapping[str, float],
    trial: Trial,
    most_drop: float,
    report: Report,
) -> tuple[list[str], tuple[Judged, ...]]:
    """Those of the groups with which networks lose little enough, and what they lose, in other precisions too."""
    exact = [_Judge(graph, trial) for graph in graphs]
    order: list[str] | None = None
    most = len(chosen) + 1
    for number in range(most):
        report("accuracy", number, most)
        judged = [judge.of(Precision.DYNAMIC_INT8, frozenset(chosen)) for judge in exact]
        if float(np.mean([each.drop for each in judged])) <= most_drop:
            break
        if order is None:
            order = _by_harm(graphs[-1], chosen, gains, trial)
        chosen = [group for group in chosen if group != order[0]]
        order = order[1:]
    others = [judge.of(precision) for precision in (Precision.FLOAT16, Precision.INT8) for judge in exact]
    report("accuracy", most, most)
    return chosen, (*judged, *others)


class _Judge:
    """Top-1 of a graph's files on held-out images."""

    def __init__(self, graph: Graph, trial: Trial) -> None:
        assert trial.held_out is not None
        self._graph, self._trial = graph, trial
        self._images = as_taken(trial.held_out.images, graph.arch.resolution, InputForm())
        self._labels = trial.held_out.labels.numpy()
        self._float32 = self._top1(_file(graph, frozenset()))

    def of(self, precision: Precision, groups: frozenset[str] = frozenset()) -> Judged:
        if precision is Precision.DYNAMIC_INT8:
            data = _file(self._graph, groups)
        else:
            quantised = quantise(self._graph, precision, None, self._trial, InputForm())
            data = write_tflite(quantised.graph, formats=quantised.formats).data
        top1 = self._top1(data)
        return Judged(self._graph.arch.id, precision, len(self._labels), round(self._float32, 5), round(top1, 5))

    def _top1(self, data: bytes) -> float:
        return float((run_tflite(data, self._images).argmax(1) == self._labels).mean())


def _by_harm(graph: Graph, chosen: Sequence[str], gains: Mapping[str, float], trial: Trial) -> list[str]:
    """The groups, first the one that disturbs logits most for the latency it saves."""
    images = as_taken(trial.calibration[:DISTURBED], graph.arch.resolution, InputForm())
    exact = run_tflite(_file(graph, frozenset()), images)
    harm = {
        group: float(np.square(run_tflite(_file(graph, frozenset({group})), images) - exact).sum())
        / max(gains[group], 1e-4)
        for group in chosen
    }
    return sorted(chosen, key=lambda group: -harm[group])


def _file(graph: Graph, groups: frozenset[str]) -> bytes:
    return write_tflite(graph, formats=dynamic_int8(graph, groups)).data

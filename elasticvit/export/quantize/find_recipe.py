"""Finds a recipe: which groups of operators make a network faster with int8 weights, on this machine.

int8 weights pay where reading weights is what takes the time, and cost where quantising the input does; which is which
depends on the processor. A single group saves about 1 % of the latency, while memory placement changes the latency of
the same file by several percent for as long as it is loaded. So groups are not measured one by one: files with random
halves of all groups are measured in turns, and a linear model of log latency, fitted to all of them, estimates what
each group saves; every file is evidence for every group, and the effects of placement average out. Then a few sets of
the best groups are measured, each loaded several times, and the fastest set is chosen. Last, accuracy: while whole
networks lose too much, the group is dropped whose int8 weights change the logits the most for the latency that it
saves.
"""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from elasticvit.costs.flops import macs
from elasticvit.errors import ExportError
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.ops import Graph
from elasticvit.export.input_form import InputForm
from elasticvit.export.precision import Precision
from elasticvit.export.quantize.calibration_set import CalibrationSet, as_taken
from elasticvit.export.quantize.recipe import AccuracyDrop, QuantizationRecipe, Timed
from elasticvit.export.quantize.try_precision import quantise, top1
from elasticvit.export.tflite.check import run_tflite
from elasticvit.export.tflite.number_formats import dynamic_int8, groups_of
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.net import Net
from elasticvit.processor import processor_names
from elasticvit.progress import Report, Step, silent
from elasticvit.timing import Samples, lower_bound, measure_ms

ROUNDS = 15
MAX_DROP = 0.01
# Images on which the change of the logits by a group is measured.
DISTURBED = 32
# Files of random groups for each network; how many are in memory at once, twice, as the runtime packs weights again.
HALVES, TOGETHER = 96, 16
# Times that a file is loaded where files are compared.
COPIES = 4


def find_recipe(
    name: str,
    version_: int,
    space: str,
    nets: Sequence[Net],
    calibration_set: CalibrationSet | None = None,
    *,
    evaluated_on: Mapping[str, str] | None = None,
    rounds: int = ROUNDS,
    max_drop: float = MAX_DROP,
    report: Report = silent,
) -> QuantizationRecipe:
    """The recipe for networks of a space on this machine, one thread.

    Args:
        nets: in eval mode, from small to large; they represent all networks of the space.
        calibration_set: with the held-out images on which top-1 is evaluated; None where the weights are not trained.
        evaluated_on: what networks and images these are, for the record.
        max_drop: the largest mean loss of top-1, a fraction (0 to 1), over whole networks.

    Raises:
        ExportError: no networks, or LiteRT does not run a file.
    """
    if not nets:
        raise ExportError("a recipe is found by measuring networks; give one or more")
    graphs = [fold(net) for net in nets]
    gains = _gains(graphs, rounds, report)
    chosen = _fastest_lot(graphs, gains, rounds, report)
    drops: tuple[AccuracyDrop, ...] = ()
    if calibration_set is not None and calibration_set.held_out is not None:
        chosen, drops = _accurate(graphs, chosen, gains, calibration_set, max_drop, report)
    return QuantizationRecipe(
        name=name,
        version=version_,
        space=space,
        device=this_device(),
        groups=tuple(chosen),
        gains={group: round(gain, 4) for group, gain in gains.items()},
        timed=_timed(graphs, chosen, rounds, report),
        accuracy_drops=drops,
        evaluated_on=dict(evaluated_on or {}),
    )


def this_device() -> dict[str, str]:
    """The device of the latencies, for the record."""
    cpu = next(iter(processor_names()), platform.processor() or "unknown")
    return {"cpu": cpu, "machine": platform.machine(), "litert": version("ai-edge-litert"), "threads": "1"}


def _gains(graphs: Sequence[Graph], rounds: int, report: Report) -> dict[str, float]:
    """The fraction of the latency that each group saves, by a linear model of log latency over all networks."""
    # Not every network has every group: a stage of the width before it has no shortcut to widen.
    every = list(dict.fromkeys(group for graph in graphs for group in groups_of(graph)))
    rng = np.random.default_rng(0)
    designs, logs = [], []
    for i, graph in enumerate(graphs):
        for start in range(0, HALVES, TOGETHER):
            chosen = rng.random((TOGETHER, len(every))) < 0.5
            files = {str(j): _file(graph, _named(every, row)) for j, row in enumerate(chosen)}
            logs.append([float(np.log(np.median(ms))) for ms in measure_ms(files, rounds).values()])
            designs.append(chosen)
            report(Step("groups", i * HALVES + start + TOGETHER, len(graphs) * HALVES))
    # Each round of files has its own level: another network, or the machine at another speed.
    levels = np.kron(np.eye(len(designs)), np.ones((TOGETHER, 1)))
    model = np.hstack([np.vstack(designs).astype(float), levels])
    worth = np.linalg.lstsq(model, np.concatenate(logs), rcond=None)[0]
    return {group: float(1 - np.exp(coefficient)) for group, coefficient in zip(every, worth, strict=False)}


def _fastest_lot(graphs: Sequence[Graph], gains: Mapping[str, float], rounds: int, report: Report) -> list[str]:
    """The first groups by gain, as many as make the networks fastest; returned in order of execution."""
    order = sorted(gains, key=lambda group: -gains[group])
    gaining = sum(gain > 0 for gain in gains.values())
    sizes = {round(fraction * gaining) for fraction in (0.5, 0.75, 1.0)} | {(gaining + len(order)) // 2, len(order)}
    lots = {size: frozenset(order[:size]) for size in sorted(sizes | {0})}
    logs = dict.fromkeys(lots, 0.0)
    for i, graph in enumerate(graphs):
        for size, ms in _copies(graph, lots, rounds).items():
            logs[size] += float(np.log(np.median(ms)))
        report(Step("lots", i + 1, len(graphs)))
    best = min(lots, key=lambda size: logs[size])
    return [group for group in gains if group in lots[best]]


def _timed(graphs: Sequence[Graph], chosen: Sequence[str], rounds: int, report: Report) -> tuple[Timed, ...]:
    timed = []
    for i, graph in enumerate(graphs):
        ms = _copies(graph, {0: frozenset(), 1: frozenset(chosen)}, rounds)
        report(Step("whole networks", i + 1, len(graphs)))
        before, after = (round(float(np.median(samples)), 4) for samples in ms.values())
        bound = round(lower_bound(ms[0] / ms[1]), 3)
        timed.append(Timed(graph.arch.id, round(macs(graph.arch) / 1e6, 2), before, after, bound))
    return tuple(timed)


def _copies(graph: Graph, lots: Mapping[int, frozenset[str]], rounds: int) -> dict[int, Samples]:
    """Latencies of files with these groups in int8, one per round: the mean over copies that were loaded separately."""
    files = {f"{size}#{copy}": _file(graph, groups) for copy in range(COPIES) for size, groups in lots.items()}
    ms = measure_ms(files, rounds)
    return {size: np.mean([ms[f"{size}#{copy}"] for copy in range(COPIES)], axis=0) for size in lots}


def _named(every: Sequence[str], chosen: NDArray[np.bool_]) -> frozenset[str]:
    return frozenset(group for group, is_chosen in zip(every, chosen, strict=True) if is_chosen)


def _accurate(
    graphs: Sequence[Graph],
    chosen: list[str],
    gains: Mapping[str, float],
    calibration_set: CalibrationSet,
    max_drop: float,
    report: Report,
) -> tuple[list[str], tuple[AccuracyDrop, ...]]:
    """The groups that keep the loss of top-1 within the bound, and the losses, in the other precisions too."""
    exact = [_Top1OnHeldOut(graph, calibration_set) for graph in graphs]
    order: list[str] | None = None
    max_rounds = len(chosen) + 1
    for number in range(max_rounds):
        report(Step("accuracy", number, max_rounds))
        drops = [evaluator.of(Precision.DYNAMIC_INT8, frozenset(chosen)) for evaluator in exact]
        if float(np.mean([network.drop for network in drops])) <= max_drop:
            break
        if order is None:
            order = _by_harm(graphs[-1], chosen, gains, calibration_set)
        chosen = [group for group in chosen if group != order[0]]
        order = order[1:]
    precisions = (Precision.FLOAT16, Precision.INT8)
    other_precisions = [evaluator.of(precision) for precision in precisions for evaluator in exact]
    report(Step("accuracy", max_rounds, max_rounds))
    return chosen, (*drops, *other_precisions)


class _Top1OnHeldOut:
    """Top-1 of a graph's files on held-out images."""

    def __init__(self, graph: Graph, calibration_set: CalibrationSet) -> None:
        assert calibration_set.held_out is not None
        self._graph, self._calibration_set = graph, calibration_set
        self._held_out = calibration_set.held_out
        self._float32 = self._top1(_file(graph, frozenset()))

    def of(self, precision: Precision, groups: frozenset[str] = frozenset()) -> AccuracyDrop:
        if precision is Precision.DYNAMIC_INT8:
            data = _file(self._graph, groups)
        else:
            quantised = quantise(self._graph, precision, None, self._calibration_set, InputForm())
            data = write_tflite(quantised.graph, number_formats=quantised.number_formats).data
        images = len(self._held_out.labels)
        return AccuracyDrop(self._graph.arch.id, precision, images, round(self._float32, 5), round(self._top1(data), 5))

    def _top1(self, data: bytes) -> float:
        return top1(data, self._graph.arch.resolution, self._held_out, InputForm())


def _by_harm(
    graph: Graph, chosen: Sequence[str], gains: Mapping[str, float], calibration_set: CalibrationSet
) -> list[str]:
    """The groups, first the one that changes the logits the most for the latency that it saves."""
    images = as_taken(calibration_set.calibration[:DISTURBED], graph.arch.resolution, InputForm())
    exact = run_tflite(_file(graph, frozenset()), images)
    harm = {
        group: float(np.square(run_tflite(_file(graph, frozenset({group})), images) - exact).sum())
        / max(gains[group], 1e-4)
        for group in chosen
    }
    return sorted(chosen, key=lambda group: -harm[group])


def _file(graph: Graph, groups: frozenset[str]) -> bytes:
    return write_tflite(graph, number_formats=dynamic_int8(graph, groups)).data

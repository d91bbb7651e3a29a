"""The range of every value of a network, from which its int8 scale follows.

An operator on int8 values needs scales that do not differ too much. XNNPACK takes an addition if the scales of its
operands are between 1/1024 and 256 times the result's scale, and a product if its scale is below 256 times the
result's (LiteRT's XNNPACK delegate, `CheckTensorsInputOutputScale`). Beyond these limits LiteRT 2.3 may crash. A branch
whose values are nearly zero, as in a newly built network, is beyond them. Such ranges are widened until the scales are
within the limits, with a margin. This costs little: the widened value is smaller than one step of the sum to which it
is added, or keeps steps as fine as those of its inputs.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.errors import ExportError
from elasticvit.export.graph.interpreter import trace
from elasticvit.export.graph.ops import (
    Add,
    Conv,
    Depthwise,
    FullyConnected,
    Graph,
    MatMul,
    Mean,
    Mul,
    Op,
    Sub,
    Value,
)
from elasticvit.export.tflite.number_formats import LARGEST

Ranges = Mapping[Value, tuple[float, float]]
# The narrowest range of a value; a network's are of the order of one.
LEAST = 1e-3
# An operand's range is at least this fraction of the sum's (the limit is 1/1024), a result's scale at least that of
# its inputs' (the limit is 1/256).
OPERAND, RESULT = 1 / 400, 1 / 128


def observed(graph: Graph, images: Iterable[NDArray[Any]]) -> Ranges:
    """The least and the greatest number of every value over all images; the range always contains 0.

    Images in float64 give the same ranges on every machine: the ends are rounded outwards to three digits, so that
    sums in another order, which differ in the sixteenth, do not show.

    Raises:
        ExportError: a value is not finite.
    """
    ranges: dict[Value, tuple[float, float]] = {}
    for image in images:
        for value, numbers in trace(graph, image).items():
            low, high = (float(end) for end in numbers.aminmax())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ExportError(f"{value.name} is not finite on a calibration image; the weights are damaged")
            before = ranges.get(value, (0.0, 0.0))
            ranges[value] = (min(low, before[0]), max(high, before[1]))
    return {value: (-_outwards(-low), _outwards(high)) for value, (low, high) in ranges.items()}


def _outwards(end: float) -> float:
    """Rounded up to three digits."""
    if end == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(end))) - 2)
    return math.ceil(end / unit) * unit


def widened(graph: Graph, ranges: Ranges) -> Ranges:
    """The ranges, widened until all scales are within XNNPACK's limits."""
    wide = {value: _at_least((low, high), LEAST) for value, (low, high) in ranges.items()}
    for op in reversed(graph.ops):
        if isinstance(op, Add | Sub):
            for value in op.inputs:
                wide[value] = _at_least(wide[value], OPERAND * _span(wide[op.y]))
    for op in graph.ops:
        least = 255 * RESULT * _coarsest(op, wide)
        for value in op.outputs:
            wide[value] = _at_least(wide[value], least)
    return wide


def _coarsest(op: Op, ranges: Ranges) -> float:
    """The scale of an operator's sums: that of its inputs, times that of its weights if it has weights."""
    scales = [_span(ranges[value]) / 255 for value in op.inputs]
    match op:
        case Conv() | Depthwise() | FullyConnected():
            return scales[0] * float(np.abs(op.weight).max()) / LARGEST
        case MatMul():
            return scales[0] * max(map(abs, ranges[op.inputs[1]])) / LARGEST
        case Mul() if op.constant is None:
            return scales[0] * scales[1]
        case Mul() if op.constant is not None:
            return scales[0] * float(np.abs(op.constant).max()) / LARGEST
        case Add() | Sub() | Mean():
            return max(scales)
    return 0.0


def _at_least(span: tuple[float, float], width: float) -> tuple[float, float]:
    """Widened upwards if it is narrower."""
    low, high = span
    return low, max(high, low + width)


def _span(ends: tuple[float, float]) -> float:
    return ends[1] - ends[0]

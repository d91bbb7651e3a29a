"""Weights and activations in int8, everywhere that a delegate takes them so.

Ranges are observed on calibration images. Convolutions, linears, matrix products, additions, gates and operators that
only move numbers work on int8. The norms (their variance would be lost in 8 bits), the softmax with its position bias,
average pooling and the first steps of the input stay in float32 between a DEQUANTIZE and a QUANTIZE, which XNNPACK
takes too. Scales follow the LiteRT 8-bit quantization specification: weights symmetric, one scale for each output
channel; biases int32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import (
    AvgPool,
    Dequantize,
    Graph,
    MatMul,
    Op,
    Pad,
    Quantize,
    Reshape,
    Rsqrt,
    Softmax,
    Split,
    Transpose,
    Value,
)
from elasticvit.export.quantize.hard_swish import without_hard_swish
from elasticvit.export.quantize.ranges import Ranges, observed, widened
from elasticvit.export.tflite.flatbuffer import Quantization
from elasticvit.export.tflite.number_formats import LARGEST, NumberFormats

FEWEST_IMAGES = 8
_MOVES = (Reshape, Transpose, Split, Pad)
# Operators that stay in float, by the last component of their name; others have no int8 kernel at all.
_FLOAT = ("norm_", "position_bias", "floats", "centre")


def static_int8(graph: Graph, images: Sequence[NDArray[Any]]) -> tuple[Graph, NumberFormats]:
    """An equal graph with int8 where possible, and the formats that say so.

    Args:
        images: for calibration, each (1, side, side, 3) as the graph takes them; 8 or more.

    Raises:
        ExportError: too few images, or a value of the network is not finite on them.
    """
    if len(images) < FEWEST_IMAGES:
        raise ExportError(
            f"int8 needs {FEWEST_IMAGES} calibration images or more to see the range of every value, got {len(images)}"
        )
    rewritten = without_hard_swish(graph)
    ranges = widened(rewritten, observed(rewritten, images))
    split = _Split(ranges, _symmetric(rewritten))
    for op in rewritten.ops:
        split.take(op)
    output = split.as_float(rewritten.output, rewritten.ops[-1])
    return replace(rewritten, ops=tuple(split.ops), output=output), NumberFormats(values=split.values)


def _symmetric(graph: Graph) -> set[Value]:
    """What becomes the second operand of a matrix product: its zero point has to be 0 (`VisitBatchMatMulNode`)."""
    symmetric = {op.inputs[1] for op in graph.ops if isinstance(op, MatMul)}
    for op in reversed(graph.ops):
        if isinstance(op, _MOVES) and symmetric.intersection(op.outputs):
            symmetric.update(op.inputs)
    return symmetric


def _is_float(op: Op) -> bool:
    return isinstance(op, Softmax | Rsqrt | AvgPool) or op.name.rpartition("/")[2].startswith(_FLOAT)


@dataclass
class _Split:
    """Copies operators. `values` are the int8 values; a value that is read in the other type is converted once."""

    ranges: Ranges
    symmetric: set[Value]
    ops: list[Op] = field(default_factory=list)
    values: dict[Value, Quantization] = field(default_factory=dict)
    converted: dict[Value, Value] = field(default_factory=dict)

    def take(self, op: Op) -> None:
        if _is_float(op):
            self.ops.append(replace(op, inputs=tuple(self.as_float(value, op) for value in op.inputs)))
            return
        inputs = tuple(self._as_int8(value, op) for value in op.inputs)
        self.ops.append(replace(op, inputs=inputs))
        for value in op.outputs:
            # Values that are only moved keep their scale.
            self.values[value] = self.values[inputs[0]] if isinstance(op, _MOVES) else self._quantization(value)

    def as_float(self, value: Value, reader: Op) -> Value:
        return self._convert(Dequantize, value, reader, "float") if value in self.values else value

    def _as_int8(self, value: Value, reader: Op) -> Value:
        if value in self.values:
            return value
        made = self._convert(Quantize, value, reader, "int8")
        self.values.setdefault(made, self._quantization(value))
        return made

    def _convert(self, kind: type[Op], value: Value, reader: Op, name: str) -> Value:
        if value not in self.converted:
            made = Value(f"{value.name}_{name}", value.shape)
            self.converted[value] = made
            self.ops.append(kind(name=made.name, block=reader.block, inputs=(value,), outputs=(made,)))
        return self.converted[value]

    def _quantization(self, value: Value) -> Quantization:
        low, high = self.ranges[value]
        if value in self.symmetric:
            return Quantization(np.array([max(-low, high) / LARGEST], np.float32))
        scale = (high - low) / 255
        return Quantization(np.array([scale], np.float32), int(np.clip(round(-128 - low / scale), -128, 127)))

"""The number formats of weights and values in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import Array, Conv, Depthwise, FullyConnected, Graph, Value
from elasticvit.export.tflite.flatbuffer import Quantization

# int8 weights are symmetric, so -128 is left out (LiteRT 8-bit quantization specification).
LARGEST = 127


class WeightFormat(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True, eq=False, slots=True)
class NumberFormats:
    """The number formats of a graph; what is not named is float32.

    Attributes:
        weights: by operator name. float16: every constant, turned into float32 when the file is loaded. int8: one
            scale for each output channel; the operator quantises its input on the fly, unless that is int8 as well.
        values: the scale and zero point of those values that are int8.
    """

    weights: Mapping[str, WeightFormat] = field(default_factory=dict)
    values: Mapping[Value, Quantization] = field(default_factory=dict)

    def of(self, op: str) -> WeightFormat:
        return self.weights.get(op, WeightFormat.FLOAT32)


FLOAT32 = NumberFormats()


def float16(graph: Graph) -> NumberFormats:
    """All constants in half precision, but for the mean of pixels, which half precision would round too much."""
    names = (op.name for op in graph.ops if not op.name.endswith("/centre"))
    return NumberFormats(dict.fromkeys(names, WeightFormat.FLOAT16))


def dynamic_int8(graph: Graph, groups: frozenset[str]) -> NumberFormats:
    """int8 weights for the convolutions and linears of these groups (`group`)."""
    names = (op.name for op in graph.ops if isinstance(op, Conv | FullyConnected) and group(op.name) in groups)
    return NumberFormats(dict.fromkeys(names, WeightFormat.INT8))


def group(op: str) -> str:
    """The group of an operator: its name without the number of its block or layer.

    `vit2/layer1/ffn/expand` is of `vit2/ffn/expand`: what operators do is alike within a stage, and all architectures
    of a space have the same stages.
    """
    return "/".join(name for name in op.split("/") if not name.startswith(("layer", "block")))


def groups_of(graph: Graph) -> dict[str, int]:
    """The groups of a graph whose weights can be int8, with their bytes in float32, in order of execution."""
    sizes: dict[str, int] = {}
    for op in graph.ops:
        if isinstance(op, Conv | FullyConnected):
            sizes[group(op.name)] = sizes.get(group(op.name), 0) + 4 * op.weight.size
    return sizes


def to_float16(name: str, data: Array) -> NDArray[np.float16]:
    """Rounded to half precision. Raises `ExportError` for a number beyond its range of ±65,504."""
    with np.errstate(over="ignore"):
        rounded = data.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ExportError(f"{name} holds {np.abs(data).max():.3g}, more than float16 can; export it as float32")
    return rounded


def to_int8(weight: Array, axis: int | None = 0) -> tuple[NDArray[np.int8], Quantization]:
    """Rounded to int8, each index of `axis`, or all of it, with the scale of the largest weight."""
    largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis), keepdims=True)
    # A channel of zeros has any scale; that of the largest channel is one that the operator bears.
    default = largest.max() / LARGEST if largest.any() else 1 / LARGEST
    scale = np.where(largest > 0, largest / LARGEST, default).astype(np.float32)
    rounded = np.clip(np.round(weight / scale), -LARGEST, LARGEST).astype(np.int8)
    return rounded, Quantization(scale.reshape(-1), axis=axis or 0)


def weighted(graph: Graph) -> list[Conv | Depthwise | FullyConnected]:
    """The operators with weights."""
    return [op for op in graph.ops if isinstance(op, Conv | Depthwise | FullyConnected)]

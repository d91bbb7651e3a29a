"""The static form of a network: a list of typed operators with final weights, from which files are written.

Batch 1, channels last, image to logits. Every value is made once, by one operator; every operator knows the block
of `elasticvit.costs.blocks.blocks(arch)` that it belongs to, so that a per-operator profile of a file can be summed to
blocks.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.arch import Arch
from elasticvit.costs.blocks import blocks
from elasticvit.errors import ExportError

Array = NDArray[np.floating[Any]]
Shape = tuple[int, ...]


class Activation(StrEnum):
    """What an operator applies to its own result."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """What an operator makes, or the input: floats, or, where `is_bytes`, whole numbers from 0 to 255."""

    name: str
    shape: Shape
    is_bytes: bool = False


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Op:
    """One operator. `name` is unique in its graph and readable: vit2/layer1/attention/scores."""

    name: str
    block: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def x(self) -> Value:
        return self.inputs[0]

    @property
    def y(self) -> Value:
        return self.outputs[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products; 0 for everything else."""
        return 0


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Conv(Op):
    """Convolution with weight (out, k, k, in) and bias (out,); pads only if `same`."""

    weight: Array
    bias: Array
    stride: int
    same: bool

    @property
    def macs(self) -> int:
        return prod((*self.y.shape, *self.weight.shape[1:]))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Depthwise(Op):
    """Convolution of every channel by itself, weight (1, k, k, channels) and bias (channels,); pads only if `same`."""

    weight: Array
    bias: Array
    stride: int
    same: bool

    @property
    def macs(self) -> int:
        return prod((*self.y.shape, *self.weight.shape[1:3]))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FullyConnected(Op):
    """The last axis through weight (out, in), plus bias (out,), then the activation."""

    weight: Array
    bias: Array
    activation: Activation

    @property
    def macs(self) -> int:
        return prod((*self.y.shape, *self.weight.shape[1:]))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class MatMul(Op):
    """Batched matrix product of the last two axes, the second operand transposed if `transpose_second`."""

    transpose_second: bool

    @property
    def macs(self) -> int:
        return prod((*self.y.shape, self.x.shape[-1]))


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Elementwise(Op):
    """Two operands, broadcast: two inputs, or one input and a constant."""

    constant: Array | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Add(Elementwise):
    """First plus second, then the activation."""

    activation: Activation = Activation.NONE


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sub(Elementwise):
    """First minus second."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Mul(Elementwise):
    """First times second."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Dequantize(Op):
    """Integers as the floats that they stand for: bytes as 0 to 255, int8 by their scale and zero point."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Quantize(Op):
    """Floats as int8, by the scale and zero point of the output (`NumberFormats` in `number_formats`)."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Mean(Op):
    """Mean over axes, which stay with length 1."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Rsqrt(Op):
    """One over the square root."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class HardSwish(Op):
    """x · relu6(x + 3) / 6."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Softmax(Op):
    """Over the last axis."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Reshape(Op):
    """The same numbers in the shape of the output."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Transpose(Op):
    """Axis i of the output is axis order[i] of the input."""

    order: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Split(Op):
    """Equal parts along an axis, as many as there are outputs."""

    axis: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Pad(Op):
    """Zeros before and after rows and columns."""

    before: int
    after: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class AvgPool(Op):
    """Means of 2×2 cells, stride 2, no padding."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OpList:
    """Operators in the order in which they run. Raises `ExportError` if they do not fit together."""

    ops: tuple[Op, ...]
    input: Value
    output: Value

    def __post_init__(self) -> None:
        known = {self.input}
        for op in self.ops:
            if not known.issuperset(op.inputs):
                raise ExportError(f"{op.name} reads a value that no operator before it makes")
            known.update(op.outputs)
        if self.output not in known:
            raise ExportError("no operator makes the output")
        if len({op.name for op in self.ops}) != len(self.ops):
            raise ExportError("two operators have the same name")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Graph(OpList):
    """The operators of a whole network. Raises `ExportError` if they do not cover its blocks in order."""

    arch: Arch

    def __post_init__(self) -> None:
        OpList.__post_init__(self)
        indices = [op.block for op in self.ops]
        if indices != sorted(indices) or set(indices) != set(range(len(blocks(self.arch)))):
            raise ExportError("the operators do not cover the blocks of the architecture in order")

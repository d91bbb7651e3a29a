"""Writes operators one after another, with names, shapes and blocks kept: how a `Graph` is made."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.arch import Arch
from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import (
    Activation,
    Add,
    Array,
    AvgPool,
    Conv,
    Depthwise,
    Dequantize,
    Elementwise,
    FullyConnected,
    Graph,
    HardSwish,
    MatMul,
    Mean,
    Mul,
    Op,
    OpList,
    Pad,
    Reshape,
    Rsqrt,
    Shape,
    Softmax,
    Split,
    Sub,
    Transpose,
    Value,
)

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Linear:
    """Weight (out, in) and bias (out,), in float64 once something has been folded in."""

    weight: Floats
    bias: Floats


@dataclass
class GraphBuilder:
    """Records operators. `enter` starts the next block; every method appends one operator and returns its value.

    Raises:
        ExportError: by any method with weights, when a weight is NaN or infinite in `dtype`.
    """

    input: Value
    dtype: type[np.floating[Any]] = np.float32
    ops: list[Op] = field(default_factory=list)
    block: int = -1
    scope: str = ""

    def enter(self, scope: str) -> None:
        self.block += 1
        self.scope = scope

    def graph(self, arch: Arch, output: Value) -> Graph:
        return Graph(ops=tuple(self.ops), input=self.input, output=output, arch=arch)

    def op_list(self, output: Value) -> OpList:
        return OpList(ops=tuple(self.ops), input=self.input, output=output)

    def conv(self, name: str, x: Value, weight: Floats, bias: Floats, stride: int = 1, same: bool = True) -> Value:
        """Weight (out, k, k, in)."""
        side = _side(x, weight.shape[1], stride, same)
        shape = (1, side, side, weight.shape[0])
        return self._add(Conv, name, (x,), shape, stride=stride, same=same, **self._weights(name, weight, bias))

    def depthwise(self, name: str, x: Value, weight: Floats, bias: Floats, stride: int = 1, same: bool = True) -> Value:
        """Weight (1, k, k, channels)."""
        side = _side(x, weight.shape[1], stride, same)
        shape = (1, side, side, weight.shape[3])
        return self._add(Depthwise, name, (x,), shape, stride=stride, same=same, **self._weights(name, weight, bias))

    def linear(self, name: str, x: Value, linear: Linear, activation: Activation = Activation.NONE) -> Value:
        shape = (*x.shape[:-1], len(linear.bias))
        weights = self._weights(name, linear.weight, linear.bias)
        return self._add(FullyConnected, name, (x,), shape, activation=activation, **weights)

    def matmul(self, name: str, x: Value, other: Value, transpose_second: bool = False) -> Value:
        shape = (*x.shape[:-1], other.shape[-2 if transpose_second else -1])
        return self._add(MatMul, name, (x, other), shape, transpose_second=transpose_second)

    def add(self, name: str, x: Value, other: Value | Floats) -> Value:
        return self._elementwise(Add, name, x, other)

    def sub(self, name: str, x: Value, other: Value | Floats) -> Value:
        return self._elementwise(Sub, name, x, other)

    def mul(self, name: str, x: Value, other: Value) -> Value:
        return self._elementwise(Mul, name, x, other)

    def dequantize(self, name: str, x: Value) -> Value:
        return self._add(Dequantize, name, (x,), x.shape)

    def mean(self, name: str, x: Value, axes: tuple[int, ...]) -> Value:
        return self._add(Mean, name, (x,), tuple(1 if i in axes else n for i, n in enumerate(x.shape)), axes=axes)

    def rsqrt(self, name: str, x: Value) -> Value:
        return self._add(Rsqrt, name, (x,), x.shape)

    def hard_swish(self, name: str, x: Value) -> Value:
        return self._add(HardSwish, name, (x,), x.shape)

    def softmax(self, name: str, x: Value) -> Value:
        return self._add(Softmax, name, (x,), x.shape)

    def reshape(self, name: str, x: Value, shape: Shape) -> Value:
        return self._add(Reshape, name, (x,), shape)

    def transpose(self, name: str, x: Value, order: tuple[int, ...]) -> Value:
        return self._add(Transpose, name, (x,), tuple(x.shape[i] for i in order), order=order)

    def halves(self, name: str, x: Value, axis: int) -> tuple[Value, Value]:
        shape = tuple(n // 2 if i == axis else n for i, n in enumerate(x.shape))
        first, second = (Value(f"{self.scope}/{name}/{i}", shape) for i in range(2))
        self._record(Split, name, (x,), (first, second), axis=axis)
        return first, second

    def pad(self, name: str, x: Value, before: int, after: int) -> Value:
        side = x.shape[1] + before + after
        return self._add(Pad, name, (x,), (1, side, side, x.shape[3]), before=before, after=after)

    def avg_pool(self, name: str, x: Value) -> Value:
        side = x.shape[1] // 2
        return self._add(AvgPool, name, (x,), (1, side, side, x.shape[3]))

    def _elementwise(self, kind: type[Elementwise], name: str, x: Value, other: Value | Floats) -> Value:
        if isinstance(other, Value):
            return self._add(kind, name, (x, other), np.broadcast_shapes(x.shape, other.shape))
        shape = np.broadcast_shapes(x.shape, other.shape)
        return self._add(kind, name, (x,), shape, constant=self._constant(name, other))

    def _weights(self, name: str, weight: Floats, bias: Floats) -> dict[str, Array]:
        return {"weight": self._constant(name, weight), "bias": self._constant(name, bias)}

    def _constant(self, name: str, data: Floats) -> Array:
        with np.errstate(over="ignore"):
            data = np.array(data, self.dtype, order="C")  # always a copy: the network may go on training
        if not np.isfinite(data).all():
            raise ExportError(
                f"the weights of {self.scope}/{name} are not finite once norms are folded in; nothing was written."
                " The supernet is damaged: train or fetch it again"
            )
        return data

    def _add(self, kind: type[Op], name: str, inputs: tuple[Value, ...], shape: Shape, **fields: Any) -> Value:  # noqa: ANN401
        value = Value(f"{self.scope}/{name}", shape)
        self._record(kind, name, inputs, (value,), **fields)
        return value

    def _record(
        self,
        kind: type[Op],
        name: str,
        inputs: tuple[Value, ...],
        outputs: tuple[Value, ...],
        **fields: Any,  # noqa: ANN401 - the kind's own fields
    ) -> None:
        op = kind(name=f"{self.scope}/{name}", block=self.block, inputs=inputs, outputs=outputs, **fields)
        self.ops.append(op)


def _side(x: Value, kernel: int, stride: int, same: bool) -> int:
    return -(-x.shape[1] // stride) if same else (x.shape[1] - kernel) // stride + 1

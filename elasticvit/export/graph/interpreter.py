"""Runs a graph with torch, operator by operator: what a file written from it has to compute."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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
    HardSwish,
    MatMul,
    Mean,
    Op,
    OpList,
    Pad,
    Quantize,
    Reshape,
    Rsqrt,
    Softmax,
    Split,
    Sub,
    Transpose,
    Value,
)

Constants = Mapping[str, Tensor]
"""The arrays of an operator by field name: weight and bias, or constant."""

_FIELDS = ("weight", "bias", "constant")
_ACTIVATIONS = {Activation.NONE: lambda y: y, Activation.RELU: F.relu, Activation.RELU6: F.relu6}


def run(graph: OpList, image: Array | NDArray[np.uint8]) -> Array:
    """Logits (1, classes) of one image (1, side, side, 3), in the image's precision; in float64 for bytes."""
    return np.asarray(trace(graph, image)[graph.output].numpy())


def trace(graph: OpList, image: Array | NDArray[np.uint8]) -> dict[Value, Tensor]:
    """Every value of the graph for one image."""
    values: dict[Value, Tensor] = {graph.input: torch.from_numpy(image)}
    with torch.inference_mode():
        for op in graph.ops:
            inputs = [values[value] for value in op.inputs]
            constants = {name: tensor.to(inputs[0].dtype) for name, tensor in constants_of(op).items()}
            results = apply(op, inputs, constants)
            for value, result in zip(op.outputs, results, strict=True):
                assert tuple(result.shape) == value.shape, f"{op.name} made {tuple(result.shape)}, not {value.shape}"
                values[value] = result
    return values


def constants_of(op: Op) -> dict[str, Tensor]:
    """The arrays that an operator holds, as tensors over the same memory."""
    arrays = {name: getattr(op, name, None) for name in _FIELDS}
    return {name: torch.from_numpy(data) for name, data in arrays.items() if data is not None}


def apply(op: Op, inputs: list[Tensor], constants: Constants) -> tuple[Tensor, ...]:
    """What one operator makes of its inputs; `constants` stand for the arrays that it holds."""
    if isinstance(op, Split):
        return inputs[0].chunk(len(op.outputs), op.axis)
    if isinstance(op, Elementwise):
        return (_elementwise(op, *inputs, *constants.values()),)
    return (_single(op, constants, *inputs),)


def _single(  # noqa: PLR0911, PLR0912 - one line per operator
    op: Op, constants: Constants, x: Tensor, other: Tensor | None = None
) -> Tensor:
    match op:
        case Conv() | Depthwise():
            return _convolution(op, constants, x)
        case FullyConnected():
            # Rows first: converters take a linear over a map for a batched product.
            y = F.linear(x.reshape(-1, x.shape[-1]), constants["weight"], constants["bias"])
            return _ACTIVATIONS[op.activation](y).reshape(op.y.shape)  # type: ignore[no-any-return]
        case MatMul() if other is not None:
            return x @ (other.transpose(-1, -2) if op.transpose_second else other)
        case Dequantize():
            return x if x.is_floating_point() else x.double()
        case Quantize():
            return x  # the graph says what is meant, its formats how coarsely it is held
        case Mean():
            return x.mean(op.axes, keepdim=True)
        case Rsqrt():
            return x.rsqrt()
        case HardSwish():
            return F.hardswish(x)
        case Softmax():
            return x.softmax(-1)
        case Reshape():
            return x.reshape(op.y.shape)
        case Transpose():
            return x.permute(op.order)
        case Pad():
            return F.pad(x, (0, 0, op.before, op.after, op.before, op.after))
        case AvgPool():
            return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    raise TypeError(f"no meaning for {type(op).__name__}")


def _convolution(op: Conv | Depthwise, constants: Constants, x: Tensor) -> Tensor:
    depthwise = isinstance(op, Depthwise)
    weight = constants["weight"].permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    padding = weight.shape[-1] // 2 if op.same else 0
    groups = x.shape[-1] if depthwise else 1
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, constants["bias"], op.stride, padding, groups=groups)
    return y.permute(0, 2, 3, 1)


def _elementwise(op: Elementwise, x: Tensor, other: Tensor) -> Tensor:
    if isinstance(op, Add):
        return _ACTIVATIONS[op.activation](x + other)  # type: ignore[no-any-return]
    return x - other if isinstance(op, Sub) else x * other

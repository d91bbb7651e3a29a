"""Runs a graph with torch, operator by operator: what a file written from it has to compute."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elasticvit.export.graph import (
    Activation,
    Add,
    Array,
    AvgPool,
    Conv,
    Depthwise,
    Elementwise,
    FullyConnected,
    Graph,
    HardSwish,
    MatMul,
    Mean,
    Op,
    Pad,
    Reshape,
    Rsqrt,
    Softmax,
    Split,
    Sub,
    Transpose,
    Value,
)

_ACTIVATIONS = {Activation.NONE: lambda y: y, Activation.RELU: F.relu, Activation.RELU6: F.relu6}


def run(graph: Graph, image: Array) -> Array:
    """Logits (1, classes) of one image (1, side, side, 3), in the image's precision."""
    values: dict[Value, Tensor] = {graph.input: torch.from_numpy(image)}
    with torch.inference_mode():
        for op in graph.ops:
            results = _apply(op, [values[value] for value in op.inputs])
            for value, result in zip(op.outputs, results, strict=True):
                assert tuple(result.shape) == value.shape, f"{op.name} made {tuple(result.shape)}, not {value.shape}"
                values[value] = result
    return np.asarray(values[graph.output].numpy())


def _apply(op: Op, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    if isinstance(op, Split):
        return inputs[0].chunk(len(op.outputs), op.axis)
    if isinstance(op, Elementwise):
        return (_elementwise(op, *inputs),)
    return (_single(op, *inputs),)


def _single(op: Op, x: Tensor, other: Tensor | None = None) -> Tensor:  # noqa: PLR0911 - a line an operator
    match op:
        case Conv() | Depthwise():
            return _convolution(op, x)
        case FullyConnected():
            y = F.linear(x, _like(x, op.weight), _like(x, op.bias))
            return _ACTIVATIONS[op.activation](y)  # type: ignore[no-any-return]
        case MatMul() if other is not None:
            return x @ (other.transpose(-1, -2) if op.transpose_second else other)
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


def _convolution(op: Conv | Depthwise, x: Tensor) -> Tensor:
    weight = _like(x, op.weight)
    depthwise = isinstance(op, Depthwise)
    weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
    padding = weight.shape[-1] // 2 if op.same else 0
    groups = x.shape[-1] if depthwise else 1
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, _like(x, op.bias), op.stride, padding, groups=groups)
    return y.permute(0, 2, 3, 1)


def _elementwise(op: Elementwise, x: Tensor, other: Tensor | None = None) -> Tensor:
    if other is None:
        assert op.constant is not None
        other = _like(x, op.constant)
    if isinstance(op, Add):
        return x + other
    return x - other if isinstance(op, Sub) else x * other


def _like(x: Tensor, data: Array) -> Tensor:
    return torch.from_numpy(data).to(x.dtype)

"""Writes a graph straight into a .tflite file, in well under a second, the same bytes for the same graph.

Operator versions are the lowest that have what is used, so that old runtimes load the file: keeping the leading axes
of a fully connected operator needs version 5, everything else is version 1.
"""

from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from elasticvit.errors import ExportError
from elasticvit.export.flatbuffer import Generated, ModelBuilder
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
    Mul,
    Op,
    Pad,
    Reshape,
    Rsqrt,
    Softmax,
    Split,
    Sub,
    Transpose,
)

INPUT, OUTPUT = "images", "logits"

_NAMES: dict[type[Op], str] = {
    Add: "ADD",
    AvgPool: "AVERAGE_POOL_2D",
    Conv: "CONV_2D",
    Depthwise: "DEPTHWISE_CONV_2D",
    FullyConnected: "FULLY_CONNECTED",
    HardSwish: "HARD_SWISH",
    MatMul: "BATCH_MATMUL",
    Mean: "MEAN",
    Mul: "MUL",
    Pad: "PAD",
    Reshape: "RESHAPE",
    Rsqrt: "RSQRT",
    Softmax: "SOFTMAX",
    Split: "SPLIT",
    Sub: "SUB",
    Transpose: "TRANSPOSE",
}
_VERSIONS: dict[type[Op], int] = {FullyConnected: 5}
_ACTIVATIONS = {
    Activation.NONE: schema.ActivationFunctionType.NONE,
    Activation.RELU: schema.ActivationFunctionType.RELU,
    Activation.RELU6: schema.ActivationFunctionType.RELU6,
}


@dataclass(frozen=True, slots=True)
class TfliteOp:
    """One operator of a file: its place in execution order, its builtin name, ours, and its block's index."""

    index: int
    builtin: str
    name: str
    block: int


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """The bytes of a file and what each of its operators belongs to."""

    data: bytes
    ops: tuple[TfliteOp, ...]


def write_tflite(graph: Graph, description: str | None = None) -> TfliteFile:
    """One signature `serving_default` from `images` (1, side, side, 3) to `logits` (1, classes), float32.

    Raises:
        ExportError: the graph's weights are not float32.
    """
    model = ModelBuilder()
    tensors = {graph.input: model.tensor(INPUT, graph.input.shape)}
    for op in graph.ops:
        inputs = [tensors[value] for value in op.inputs]
        constants = _constants(model, op)
        # SPLIT is the one operator whose constant comes first.
        inputs = [*constants, *inputs] if isinstance(op, Split) else [*inputs, *constants]
        for value in op.outputs:
            tensors[value] = model.tensor(OUTPUT if value is graph.output else value.name, value.shape)
        outputs = [tensors[value] for value in op.outputs]
        model.operator(_NAMES[type(op)], _VERSIONS.get(type(op), 1), inputs, outputs, _options(op))
    if description is None:
        description = f"ElasticViT {graph.arch.id}, float32"
    data = model.finish({INPUT: tensors[graph.input]}, {OUTPUT: tensors[graph.output]}, "main", description)
    return TfliteFile(data, tuple(TfliteOp(i, _NAMES[type(op)], op.name, op.block) for i, op in enumerate(graph.ops)))


def _constants(model: ModelBuilder, op: Op) -> list[int]:  # noqa: PLR0911 - a line an operator
    """The tensors that an operator reads besides its inputs, in the format's order."""
    match op:
        case Conv() | Depthwise() | FullyConnected():
            parts = [("weight", op.weight), ("bias", op.bias)]
            return [model.constant(f"{op.name}/{part}", _float32(op, data)) for part, data in parts]
        case Elementwise(constant=data) if data is not None:
            data = _float32(op, data)
            return [model.shared("value", data) if data.size == 1 else model.constant(f"{op.name}/table", data)]
        case Mean():
            return [model.shared("axes", np.array(op.axes, np.int32))]
        case Reshape():
            return [model.shared("shape", np.array(op.y.shape, np.int32))]
        case Transpose():
            return [model.shared("order", np.array(op.order, np.int32))]
        case Split():
            return [model.shared("axis", np.array(op.axis, np.int32))]
        case Pad():
            sides = [op.before, op.after]
            return [model.shared("pad", np.array([[0, 0], sides, sides, [0, 0]], np.int32))]
    return []


def _float32(op: Op, data: Array) -> Array:
    if data.dtype != np.float32:
        raise ExportError(f"{op.name} has weights in {data.dtype}; fold the network with dtype float32")
    return data


def _options(op: Op) -> Generated:  # noqa: PLR0911 - a line an operator
    match op:
        case Conv():
            return _window(schema.Conv2DOptionsT(), op.stride, op.same)
        case Depthwise():
            return _with(_window(schema.DepthwiseConv2DOptionsT(), op.stride, op.same), depthMultiplier=1)
        case AvgPool():
            window = {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
            return _with(schema.Pool2DOptionsT(), padding=schema.Padding.VALID, **window)
        case FullyConnected():
            activation = _ACTIVATIONS[op.activation]
            return _with(schema.FullyConnectedOptionsT(), keepNumDims=True, fusedActivationFunction=activation)
        case MatMul():
            return _with(schema.BatchMatMulOptionsT(), adjX=False, adjY=op.transpose_second)
        case Mean():
            return _with(schema.ReducerOptionsT(), keepDims=True)
        case Softmax():
            return _with(schema.SoftmaxOptionsT(), beta=1.0)
        case Reshape():
            return _with(schema.ReshapeOptionsT(), newShape=np.array(op.y.shape, np.int32))
        case Split():
            return _with(schema.SplitOptionsT(), numSplits=len(op.outputs))
        case Rsqrt():
            return None
    plain = {Add: "Add", Sub: "Sub", Mul: "Mul", HardSwish: "HardSwish", Transpose: "Transpose", Pad: "Pad"}
    return getattr(schema, f"{plain[type(op)]}OptionsT")()


def _window(options: Generated, stride: int, same: bool) -> Generated:
    padding = schema.Padding.SAME if same else schema.Padding.VALID
    dilation = {"dilationHFactor": 1, "dilationWFactor": 1}
    return _with(options, padding=padding, strideH=stride, strideW=stride, **dilation)


def _with(options: Generated, **fields: object) -> Generated:
    for name, value in fields.items():
        setattr(options, name, value)
    return options

"""Writes a graph straight into a .tflite file, in well under a second, the same bytes for the same graph.

Operator versions are the lowest that have what is used, so that old runtimes load the file and too old ones refuse it:
in float32 keeping the leading axes of a fully connected operator needs version 5, everything else is version 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

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
    Quantize,
    Reshape,
    Rsqrt,
    Softmax,
    Split,
    Sub,
    Transpose,
    Value,
)
from elasticvit.export.tflite.flatbuffer import Generated, ModelBuilder, Quantization
from elasticvit.export.tflite.number_formats import FLOAT32, NumberFormats, WeightFormat, to_float16, to_int8
from elasticvit.export.tflite.runtime_version import min_runtime_version

INPUT, OUTPUT = "images", "logits"

_NAMES: dict[type[Op], str] = {
    Add: "ADD",
    AvgPool: "AVERAGE_POOL_2D",
    Conv: "CONV_2D",
    Depthwise: "DEPTHWISE_CONV_2D",
    Dequantize: "DEQUANTIZE",
    Quantize: "QUANTIZE",
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
_FLOAT16_DEQUANTIZE = 3
# Floats through int8 weights with a scale for each channel (LiteRT's versioning/op_version.cc): before, a runtime would
# read one scale for all of them.
_HYBRID_VERSIONS: dict[type[Op], int] = {Conv: 5, FullyConnected: 12}
_INT8_VERSIONS: dict[type[Op], int] = {Conv: 3, Depthwise: 3, FullyConnected: 5} | dict.fromkeys(
    (Add, Sub, Mul, Mean, Pad, AvgPool, Split, Transpose, MatMul, Dequantize), 2
)
# Operators whose options have nothing in them that we set.
_PLAIN: dict[type[Op], str] = {
    Dequantize: "Dequantize",
    HardSwish: "HardSwish",
    Mul: "Mul",
    Pad: "Pad",
    Quantize: "Quantize",
    Sub: "Sub",
    Transpose: "Transpose",
}
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


def write_tflite(
    graph: OpList,
    description: str | None = None,
    number_formats: NumberFormats = FLOAT32,
    metadata: Mapping[str, bytes] | None = None,
) -> TfliteFile:
    """One signature `serving_default` from `images` (1, side, side, 3) to `logits` (1, classes).

    With `metadata` (`elasticvit.export.tflite.metadata.entries`) the file also states the runtime that it needs.

    Raises:
        ExportError: the graph's weights are not float32, or are too large for their number format.
    """
    model = ModelBuilder()
    ops: list[TfliteOp] = []
    tensors = {graph.input: _input(model, graph.input)}
    for op in graph.ops:
        inputs = [tensors[value] for value in op.inputs]
        constants = _constants(model, op, number_formats, ops)
        # SPLIT is the one operator whose constant comes first.
        inputs = [*constants, *inputs] if isinstance(op, Split) else [*inputs, *constants]
        for value in op.outputs:
            quantization = number_formats.values.get(value)
            name, dtype = (
                OUTPUT if value is graph.output else value.name,
                np.float32 if quantization is None else np.int8,
            )
            tensors[value] = model.tensor(name, value.shape, dtype, quantization)
        outputs = [tensors[value] for value in op.outputs]
        model.operator(_NAMES[type(op)], _version(op, number_formats), inputs, outputs, _options(op))
        ops.append(TfliteOp(len(ops), _NAMES[type(op)], op.name, op.block))
    if description is None:
        description = f"ElasticViT {graph.arch.id}" if isinstance(graph, Graph) else "part of an ElasticViT"
    if metadata is not None:
        _add_metadata(model, metadata)
    data = model.finish({INPUT: tensors[graph.input]}, {OUTPUT: tensors[graph.output]}, "main", description)
    return TfliteFile(data, tuple(ops))


def _add_metadata(model: ModelBuilder, metadata: Mapping[str, bytes]) -> None:
    release = min_runtime_version(model.used)
    for name, data in metadata.items():
        model.metadata(name, data)
    if release is not None:
        # 16 bytes, zeros at the end: as converters write it.
        model.metadata("min_runtime_version", release.encode().ljust(16, b"\0"))


def _input(model: ModelBuilder, value: Value) -> int:
    """Bytes are numbers with scale 1, which is what makes delegates take the operator that unpacks them."""
    if value.is_bytes:
        return model.tensor(INPUT, value.shape, np.uint8, Quantization(np.ones(1, np.float32)))
    return model.tensor(INPUT, value.shape)


def _constants(model: ModelBuilder, op: Op, number_formats: NumberFormats, ops: list[TfliteOp]) -> list[int]:  # noqa: PLR0911 - one line per operator
    """The tensors that an operator reads besides its inputs, in the format's order; adds what has to unpack them."""
    match op:
        case Conv() | Depthwise() | FullyConnected():
            if (quantization := number_formats.values.get(op.x)) is not None:
                return _int8_weights(model, op, quantization)
            return _weights(model, op, number_formats.of(op.name), ops)
        case Elementwise(constant=data) if data is not None:
            data = _float32(op, data)
            if op.x in number_formats.values:
                # One scale for all of it: an elementwise operator has no scale for each channel.
                return [model.constant(f"{op.name}/table", *to_int8(data, axis=None))]
            if data.size == 1:
                return [model.shared("value", data)]
            return [_stored(model, op, "table", data, number_formats.of(op.name), ops)]
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


def _int8_weights(model: ModelBuilder, op: Conv | Depthwise | FullyConnected, x: Quantization) -> list[int]:
    """Of an operator on int8 values: the bias is added to sums of products, and so has the product's scale."""
    axis = 3 if isinstance(op, Depthwise) else 0
    weight, quantization = to_int8(_float32(op, op.weight), axis)
    scale = x.scale.astype(np.float64) * quantization.scale
    bias = np.clip(np.round(_float32(op, op.bias) / scale), -(2**31), 2**31 - 1).astype(np.int32)
    return [
        model.constant(f"{op.name}/weight", weight, quantization),
        model.constant(f"{op.name}/bias", bias, Quantization(scale.astype(np.float32))),
    ]


def _version(op: Op, number_formats: NumberFormats) -> int:
    if op.x in number_formats.values:
        return _INT8_VERSIONS.get(type(op), 1)
    if number_formats.of(op.name) is WeightFormat.INT8:
        return _HYBRID_VERSIONS[type(op)]
    return _VERSIONS.get(type(op), 1)


def _weights(
    model: ModelBuilder, op: Conv | Depthwise | FullyConnected, form: WeightFormat, ops: list[TfliteOp]
) -> list[int]:
    weight, bias = _float32(op, op.weight), _float32(op, op.bias)
    if form is WeightFormat.INT8:
        # The bias stays as it is: the operator's sums are turned into float32 before it is added.
        return [model.constant(f"{op.name}/weight", *to_int8(weight)), model.constant(f"{op.name}/bias", bias)]
    return [_stored(model, op, field, data, form, ops) for field, data in (("weight", weight), ("bias", bias))]


def _stored(
    model: ModelBuilder, op: Op, field: str, data: NDArray[np.float32], form: WeightFormat, ops: list[TfliteOp]
) -> int:
    """A constant as float32, or as float16 with the operator that unpacks it, once, when the file is loaded."""
    name = f"{op.name}/{field}"
    if form is not WeightFormat.FLOAT16:
        return model.constant(name, data)
    packed, unpacked = model.constant(f"{name}_float16", to_float16(name, data)), model.tensor(name, data.shape)
    model.operator("DEQUANTIZE", _FLOAT16_DEQUANTIZE, [packed], [unpacked], schema.DequantizeOptionsT())
    ops.append(TfliteOp(len(ops), "DEQUANTIZE", name, op.block))
    return unpacked


def _float32(op: Op, data: Array) -> NDArray[np.float32]:
    if data.dtype != np.float32:
        raise ExportError(f"{op.name} has weights in {data.dtype}; fold the network with dtype float32")
    return data


def _options(op: Op) -> Generated:  # noqa: PLR0911 - one line per operator
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
        case Add():
            return _with(schema.AddOptionsT(), fusedActivationFunction=_ACTIVATIONS[op.activation])
    return getattr(schema, f"{_PLAIN[type(op)]}OptionsT")()


def _window(options: Generated, stride: int, same: bool) -> Generated:
    padding = schema.Padding.SAME if same else schema.Padding.VALID
    dilation = {"dilationHFactor": 1, "dilationWFactor": 1}
    return _with(options, padding=padding, strideH=stride, strideW=stride, **dilation)


def _with(options: Generated, **fields: object) -> Generated:
    for name, value in fields.items():
        setattr(options, name, value)
    return options

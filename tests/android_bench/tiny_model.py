"""Small .tflite files for the tests, made with the flatbuffer classes that come with LiteRT."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Shape = tuple[int, ...]


class TinyModel:
    """One graph of float32 tensors; operations are added in execution order and named by the index they return."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.subgraphs, self.model.buffers, self.model.operatorCodes = [self.graph], [schema.BufferT()], []

    def tensor(self, shape: Shape, name: str = "", values: NDArray[Any] | None = None) -> int:
        tensor = schema.TensorT()
        tensor.shape = np.asarray(shape, np.int32)
        tensor.name = name or f"t{len(self.graph.tensors)}"
        tensor.type = schema.TensorType.FLOAT32
        tensor.hasRank = True
        tensor.buffer = 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.type = schema.TensorType.INT32 if values.dtype == np.int32 else schema.TensorType.FLOAT32
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def input(self, shape: Shape, name: str, kind: int = schema.TensorType.FLOAT32) -> int:
        index = self.tensor(shape, name)
        self.graph.tensors[index].type = kind
        self.graph.inputs.append(index)
        return index

    def constant(self, shape: Shape, seed: int = 0) -> int:
        values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        return self.tensor(shape, values=values * np.float32(0.1))

    def op(self, name: str, inputs: Sequence[int], shape: Shape, options: object = None) -> int:
        """Appends the operation `name` of schema.BuiltinOperator and returns its output tensor."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 1
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        output = self.tensor(shape)
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            operator.builtinOptions = options
        self.graph.operators.append(operator)
        return output

    def conv(self, x: int, size: int, channels: tuple[int, int], kernel: int = 3) -> int:
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        weights = self.constant((channels[1], kernel, kernel, channels[0]))
        inputs = [x, weights, self.constant((channels[1],))]
        return self.op("CONV_2D", inputs, (1, size, size, channels[1]), options)

    def dense(self, x: int, wide: int, out: int) -> int:
        options = schema.FullyConnectedOptionsT()
        return self.op("FULLY_CONNECTED", [x, self.constant((out, wide)), self.constant((out,))], (1, out), options)

    def reshape(self, x: int, shape: Shape) -> int:
        target = self.tensor((len(shape),), values=np.asarray(shape, np.int32))
        return self.op("RESHAPE", [x, target], shape)

    def write(self, path: Path, outputs: Sequence[int]) -> Path:
        self.graph.outputs = list(outputs)
        builder = flatbuffers.Builder(4096)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def write_convnet(path: Path, size: int = 16) -> Path:
    """conv 3x3, hard swish, conv 1x1, flatten, dense: XNNPACK takes all of it."""
    net = TinyModel()
    x = net.conv(net.input((1, size, size, 3), "image"), size, (3, 8))
    x = net.op("HARD_SWISH", [x], (1, size, size, 8), schema.HardSwishOptionsT())
    x = net.conv(x, size, (8, 4), kernel=1)
    x = net.dense(net.reshape(x, (1, size * size * 4)), size * size * 4, 10)
    return net.write(path, [x])


def write_split_net(path: Path) -> Path:
    """conv, sign, conv: XNNPACK does not take SIGN, so two partitions surround a node of the interpreter's own."""
    net = TinyModel()
    x = net.conv(net.input((1, 8, 8, 3), "image"), 8, (3, 4))
    x = net.op("SIGN", [x], (1, 8, 8, 4))
    return net.write(path, [net.conv(x, 8, (4, 4))])


def write_two_by_two(path: Path) -> Path:
    """Two inputs (a float32, an int32 that only passes through a cast) and two outputs."""
    net = TinyModel()
    a = net.input((1, 4), "a")
    b = net.input((1, 4), "b", schema.TensorType.INT32)
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = schema.TensorType.INT32, schema.TensorType.FLOAT32
    total = net.op("ADD", [a, net.op("CAST", [b], (1, 4), cast)], (1, 4), schema.AddOptionsT())
    return net.write(path, [total, net.op("MUL", [total, total], (1, 4), schema.MulOptionsT())])


def write_bad_tensor_index(path: Path) -> Path:
    """Well formed as a flatbuffer, but an operation reads a tensor that does not exist."""
    net = TinyModel()
    x = net.input((1, 4), "a")
    y = net.op("HARD_SWISH", [x], (1, 4), schema.HardSwishOptionsT())
    net.graph.operators[0].inputs = np.asarray([4096], np.int32)
    return net.write(path, [y])


def write_text_input(path: Path) -> Path:
    """A graph that takes text."""
    net = TinyModel()
    text = net.input((1,), "text", schema.TensorType.STRING)
    return net.write(path, [net.op("SHAPE", [text], (1,), schema.ShapeOptionsT())])

"""Reads the operators and tensors of a .tflite file, written by this package or by another tool."""

import struct
from collections.abc import Callable
from math import prod

from ai_edge_litert import schema_py_generated as schema

from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import Shape
from elasticvit.export.tflite.flatbuffer import IDENTIFIER, Generated


def tflite_macs(data: bytes) -> int:
    """Multiply-accumulates of the convolutions, fully connected operators and matrix products in a file.

    Raises:
        ExportError: the bytes are no .tflite file, or a damaged one.
    """
    if data[4:8] != IDENTIFIER:
        raise ExportError("these bytes are no .tflite file: the identifier TFL3 is missing")
    try:
        model = schema.Model.GetRootAs(data)
        codes = [_builtin(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
        return sum(_subgraph_macs(model.Subgraphs(i), codes) for i in range(model.SubgraphsLength()))
    except (struct.error, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ExportError(f"the .tflite file is damaged or truncated: {error}") from error


def _subgraph_macs(graph: Generated, codes: list[int]) -> int:
    def shape(index: int) -> Shape:
        return tensor_shape(graph.Tensors(index))

    total = 0
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        depth = _DEPTHS.get(codes[operator.OpcodeIndex()])
        if depth is not None:
            first, second = shape(operator.Inputs(0)), shape(operator.Inputs(1))
            total += prod(shape(operator.Outputs(0))) * depth(operator, first, second)
    return total


def tensor_shape(tensor: Generated) -> Shape:
    """() for a scalar, whose writer may leave the shape out."""
    return tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))


def _builtin(code: Generated) -> int:
    """Files from before 2020 have only the deprecated field; the other one is then 0."""
    return int(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))


def transposed_matmuls(data: bytes) -> frozenset[int]:
    """The operators of a sound file's first graph that are matrix products with a transposed operand, by index."""
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    transposed = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        builtin = _builtin(model.OperatorCodes(operator.OpcodeIndex()))
        if builtin == schema.BuiltinOperator.BATCH_MATMUL and any(_transposes(operator)):
            transposed.append(i)
    return frozenset(transposed)


def _transposes(operator: Generated) -> tuple[bool, bool]:
    """Whether a matrix product transposes its first and its second operand; an operator without options does not."""
    table = operator.BuiltinOptions()
    if table is None:
        return False, False
    options = schema.BatchMatMulOptions()
    options.Init(table.Bytes, table.Pos)
    return bool(options.AdjX()), bool(options.AdjY())


def _matmul_depth(operator: Generated, first: Shape, _: Shape) -> int:
    return first[-2 if _transposes(operator)[0] else -1]


# How many products are summed for one number of the output, from the shapes of the first two inputs. Weights are the
# second: convolution (out, h, w, in), depthwise (1, h, w, out), fully connected (out, in).
_DEPTHS: dict[int, Callable[[Generated, Shape, Shape], int]] = {
    schema.BuiltinOperator.CONV_2D: lambda _, x, weight: prod(weight[1:]),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: lambda _, x, weight: prod(weight[1:3]),
    schema.BuiltinOperator.FULLY_CONNECTED: lambda _, x, weight: weight[-1],
    schema.BuiltinOperator.BATCH_MATMUL: _matmul_depth,
}

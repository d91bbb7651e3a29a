"""Reads a .tflite file for what it computes, knowing nothing of how it was made."""

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
        codes = [model.OperatorCodes(i).BuiltinCode() for i in range(model.OperatorCodesLength())]
        return sum(_subgraph_macs(model.Subgraphs(i), codes) for i in range(model.SubgraphsLength()))
    except (struct.error, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ExportError(f"the .tflite file is damaged or truncated: {error}") from error


def _subgraph_macs(graph: Generated, codes: list[int]) -> int:
    def shape(index: int) -> Shape:
        return tuple(graph.Tensors(index).ShapeAsNumpy().tolist())

    total = 0
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        depth = _DEPTHS.get(codes[operator.OpcodeIndex()])
        if depth is not None:
            first, second = (shape(index) for index in operator.InputsAsNumpy().tolist()[:2])
            total += prod(shape(operator.Outputs(0))) * depth(operator, first, second)
    return total


def transposed_matmuls(data: bytes) -> frozenset[int]:
    """The operators of a sound file's first graph that are matrix products with a transposed operand, by index."""
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    found = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.BATCH_MATMUL:
            options = _matmul_options(operator)
            if options.AdjX() or options.AdjY():
                found.append(i)
    return frozenset(found)


def _matmul_options(operator: Generated) -> Generated:
    table = operator.BuiltinOptions()
    options = schema.BatchMatMulOptions()
    options.Init(table.Bytes, table.Pos)
    return options


def _matmul_depth(operator: Generated, first: Shape, _: Shape) -> int:
    return first[-2 if _matmul_options(operator).AdjX() else -1]


# How many products are summed for one number of the output, from the shapes of the first two inputs. Weights are the
# second: convolution (out, h, w, in), depthwise (1, h, w, out), fully connected (out, in).
_DEPTHS: dict[int, Callable[[Generated, Shape, Shape], int]] = {
    schema.BuiltinOperator.CONV_2D: lambda _, x, weight: prod(weight[1:]),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: lambda _, x, weight: prod(weight[1:3]),
    schema.BuiltinOperator.FULLY_CONNECTED: lambda _, x, weight: weight[-1],
    schema.BuiltinOperator.BATCH_MATMUL: _matmul_depth,
}

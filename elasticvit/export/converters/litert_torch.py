"""The other way to a .tflite: the same operators as a torch module, converted by litert-torch.

It shares with the direct writer what is computed and nothing of how it is written, so in tests each is held against
the other; and it is there for a runtime that does not take our file.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from elasticvit.errors import ExportError
from elasticvit.export.converters.exported_program import quiet
from elasticvit.export.graph.interpreter import apply, constants_of
from elasticvit.export.graph.ops import Graph, Op, Value
from elasticvit.export.tflite.writer import INPUT, OUTPUT, TfliteOp

_PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"
_BUILTINS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


class GraphModule(nn.Module):
    """A graph as a module: images (1, side, side, 3) → {"logits": (1, classes)}.

    Its weights are buffers in their final form. A converter takes those as they are, where it would evaluate constants
    that are computed in `forward` one by one: half as long again.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        for op in graph.ops:
            for field, data in constants_of(op).items():
                self.register_buffer(_buffer(op, field), data)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        values: dict[Value, Tensor] = {self._graph.input: images}
        for op in self._graph.ops:
            constants = {field: self.get_buffer(_buffer(op, field)) for field in constants_of(op)}
            results = apply(op, [values[value] for value in op.inputs], constants)
            values.update(zip(op.outputs, results, strict=True))
        return {OUTPUT: values[self._graph.output]}


def convert(graph: Graph) -> bytes:
    """A float32 .tflite with the signature `serving_default` from `images` (1, side, side, 3) to `logits` (1, classes).

    Takes 15 to 40 s of one core. Operators do not have the names of layers, so an operator profile of the file
    cannot be summed by block.

    Raises:
        ExportError: litert-torch is missing or does not convert the graph, or the graph takes bytes.
    """
    if graph.input.is_bytes:
        raise ExportError("litert-torch writes no files that take bytes; take float input, or the direct writer")
    module = GraphModule(graph).eval()
    with _quietly():
        litert_torch = _load()
        try:
            converted = litert_torch.convert(module, sample_kwargs={INPUT: torch.zeros(graph.input.shape)})
            return bytes(converted.model_content())
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"litert-torch does not convert {graph.arch.id}: {error}; the direct writer needs no converter"
            ) from error


def operators(data: bytes) -> tuple[TfliteOp, ...]:
    """The operators of a converted file, named after their outputs; block -1, as the converter keeps no blocks."""
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    converted = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        builtin = _BUILTINS[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
        converted.append(TfliteOp(i, builtin, graph.Tensors(operator.Outputs(0)).Name().decode(), -1))
    return tuple(converted)


def _buffer(op: Op, field: str) -> str:
    return f"{op.name}/{field}"


def _load() -> Any:  # noqa: ANN401 - a module without types
    try:
        import litert_torch
    except ImportError as error:
        raise ExportError(
            f"litert-torch cannot be imported ({error}); install elasticvit[convert], or use the direct writer"
        ) from error
    return litert_torch


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the converter's progress and warnings out of a program's output."""
    before = os.environ.get(_PROGRESS)
    os.environ[_PROGRESS] = "n"
    try:
        with quiet("torch", "torchao"):
            yield
    finally:
        if before is None:
            del os.environ[_PROGRESS]
        else:
            os.environ[_PROGRESS] = before

"""Check an uploaded .tflite without a runtime: whether it is whole, and its inputs and outputs.

Reads the flatbuffer tables directly (https://flatbuffers.dev/internals, schema.fbs of LiteRT) and checks every offset.
LiteRT itself was considered. Its interpreter refuses damaged buffers as well, but it then runs native code on a file
that is not trusted, so it would need a process of its own: the exporting process belongs to the worker and may be busy
for minutes while POST /models waits, and a process for each upload takes about 0.6 s. The generated classes of the
schema do not check bounds, and negative offsets wrap around.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.errors import BadValue

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
# fmt: off
TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16", "int2", "uint4",
)
# fmt: on


class _Table:
    """One flatbuffer table; fields by their number in the schema."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data = data
        self.position = position
        self.vtable = position - _read(data, position, "<i")
        self.vtable_bytes: int = _read(data, self.vtable, "<H")

    def scalar(self, field: int, form: str, default: int = 0) -> int:
        at = self._at(field)
        return default if at is None else _read(self.data, at, form)

    def tables(self, field: int) -> list[_Table]:
        return [_Table(self.data, at + _read(self.data, at, "<I")) for at in self._elements(field, 4)]

    def integers(self, field: int) -> list[int]:
        return [_read(self.data, at, "<i") for at in self._elements(field, 4)]

    def text(self, field: int) -> str:
        start, length = self._vector(field, 1)
        return self.data[start : start + length].decode("utf-8", "replace")

    def bytes_in_bounds(self, field: int) -> int:
        """The length of a byte vector, after a check that it lies inside the file."""
        return self._vector(field, 1)[1]

    def _at(self, field: int) -> int | None:
        slot = 4 + 2 * field
        offset = _read(self.data, self.vtable + slot, "<H") if slot < self.vtable_bytes else 0
        return self.position + offset if offset else None

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        at = self._at(field)
        if at is None:
            return 0, 0
        start = at + _read(self.data, at, "<I")
        length = _read(self.data, start, "<I")
        if start + 4 + length * width > len(self.data):
            raise BadValue("the .tflite file is cut off or damaged: a vector extends past its end")
        return start + 4, length

    def _elements(self, field: int, width: int) -> Iterator[int]:
        start, length = self._vector(field, width)
        return iter(range(start, start + length * width, width))


def describe(path: Path) -> dict[str, Any]:
    """Check a .tflite file; returns `{inputs, outputs, operators}`, tensors as `{name, type, shape}`.

    Raises BadValue with what is wrong.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8 or head[4:8] != IDENTIFIER:
            raise BadValue("this is not a .tflite file: it lacks the identifier TFL3 at byte 4")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _describe(data)


def _describe(data: mmap.mmap) -> dict[str, Any]:
    model = _Table(data, _read(data, 0, "<I"))
    if model.scalar(0, "<I") != SCHEMA_VERSION:
        raise BadValue(f"the .tflite file is not of schema version {SCHEMA_VERSION}: convert the model again")
    operators, subgraphs, buffers = len(model.tables(1)), model.tables(2), model.tables(4)
    for buffer in buffers:
        buffer.bytes_in_bounds(0)
        if buffer.scalar(1, "<Q") + buffer.scalar(2, "<Q") > len(data):
            raise BadValue("the .tflite file is cut off: a weight extends past its end")
    if not subgraphs:
        raise BadValue("the .tflite file has no graph in it")
    graphs = [_graph(graph, operators, len(buffers)) for graph in subgraphs]
    if not graphs[0]["inputs"] or not graphs[0]["outputs"]:
        raise BadValue("the .tflite file's graph has no input or no output")
    return graphs[0]


def _graph(graph: _Table, operator_codes: int, buffers: int) -> dict[str, Any]:
    tensors = graph.tables(0)
    shown = [_tensor(tensor, buffers) for tensor in tensors]
    operators = graph.tables(3)
    for operator in operators:
        if operator.scalar(0, "<I") >= operator_codes:
            raise BadValue("the .tflite file is damaged: an operator has no code")
        for tensor in (*operator.integers(1), *operator.integers(2)):
            if not -1 <= tensor < len(tensors):
                raise BadValue("the .tflite file is damaged: an operator names a tensor that is not there")
    ends = {"inputs": graph.integers(1), "outputs": graph.integers(2)}
    if any(not 0 <= tensor < len(tensors) for numbers in ends.values() for tensor in numbers):
        raise BadValue("the .tflite file is damaged: an input or output is not there")
    return {side: [shown[tensor] for tensor in numbers] for side, numbers in ends.items()} | {
        "operators": len(operators)
    }


def _tensor(tensor: _Table, buffers: int) -> dict[str, Any]:
    if tensor.scalar(2, "<I") >= max(buffers, 1):
        raise BadValue("the .tflite file is damaged: a tensor names a buffer that is not there")
    kind = tensor.scalar(1, "<b")
    return {
        "name": tensor.text(3),
        "type": TYPES[kind] if 0 <= kind < len(TYPES) else f"type {kind}",
        "shape": tensor.integers(0),
    }


def _read(data: mmap.mmap, position: int, form: str) -> int:
    try:
        if position < 0:
            raise struct.error("before the start")
        value: int = struct.unpack_from(form, data, position)[0]
    except struct.error as error:
        raise BadValue("the .tflite file is cut off or damaged: an offset points outside of it") from error
    return value

"""Read a .tflite that nobody trusts, within a budget: whether it is whole, and its inputs and outputs.

Reads the flatbuffer tables directly (https://flatbuffers.dev/internals, schema.fbs of LiteRT) and checks every offset.
Tables of a flatbuffer can be shared, so that a file of some kilobytes can stand for millions of tables: each is looked
at once by its position, and the work in all is bounded by the size of the file.

This file is also a program, `python -I -S tflite_reader.py MEMORY_BYTES CPU_SECONDS < FILE`, which prints one JSON
object: what `describe` returns, or `{"refused": "why"}`. It imports the standard library only, so that it starts in
some tens of milliseconds and finds nothing to import from the folder it runs in.
"""

from __future__ import annotations

import json
import mmap
import resource
import struct
import sys
from typing import Any

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
# Far beyond any real network, and small enough for a moment's work.
MAX_SUBGRAPHS = 256
MAX_CODES = 4096
MAX_RECORDS = 200_000
"""Tensors or operators of a graph, or buffers."""
MAX_ENDS = 256
"""Inputs or outputs of a graph."""
MAX_NAME_BYTES = 1024
MAX_RANK = 16
MAX_ELEMENTS = 4_000_000
MAX_MANIFEST_BYTES = 64_000
# fmt: off
TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16", "int2", "uint4",
)
# fmt: on


class Refused(Exception):  # noqa: N818 - as in server/errors.py
    """The file cannot be used; the message says why."""


class _File:
    """The bytes, and how many elements of vectors may still be looked at.

    Every element takes four bytes or more in a file that shares nothing: an honest file needs a quarter of this.
    """

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.elements_left = min(len(data), MAX_ELEMENTS) + 1000

    def read(self, position: int, form: str) -> int:
        try:
            if position < 0:
                raise struct.error("before the start")
            value: int = struct.unpack_from(form, self.data, position)[0]
        except struct.error as error:
            raise Refused("the .tflite file is cut off or damaged: an offset points outside of it") from error
        return value

    def spend(self, elements: int) -> None:
        self.elements_left -= elements
        if self.elements_left < 0:
            raise Refused("the .tflite file is damaged: it names the same parts again and again")


class _Table:
    """One flatbuffer table; fields by their number in the schema."""

    def __init__(self, file: _File, position: int) -> None:
        self.file = file
        self.position = position
        self.vtable = position - file.read(position, "<i")
        self.vtable_bytes = file.read(self.vtable, "<H")

    def scalar(self, field: int, form: str, default: int = 0) -> int:
        at = self._at(field)
        return default if at is None else self.file.read(at, form)

    def positions(self, field: int, most: int, what: str) -> list[int]:
        """Where the tables of a vector are."""
        start, length = self._bounded(field, most, what)
        return [at + self.file.read(at, "<I") for at in range(start, start + 4 * length, 4)]

    def integers(self, field: int, most: int, what: str) -> tuple[int, ...]:
        start, length = self._bounded(field, most, what)
        return struct.unpack_from(f"<{length}i", self.file.data, start)

    def text(self, field: int) -> str:
        start, length = self.vector(field, 1)
        if length > MAX_NAME_BYTES:
            raise Refused(f"the name of an input or output is longer than {MAX_NAME_BYTES} bytes: give it a short one")
        return self.file.data[start : start + length].decode("utf-8", "replace")

    def vector(self, field: int, width: int) -> tuple[int, int]:
        """Start and length of a vector that lies inside the file."""
        at = self._at(field)
        if at is None:
            return 0, 0
        start = at + self.file.read(at, "<I")
        length = self.file.read(start, "<I")
        if start + 4 + length * width > len(self.file.data):
            raise Refused("the .tflite file is cut off or damaged: a vector extends past its end")
        return start + 4, length

    def _bounded(self, field: int, most: int, what: str) -> tuple[int, int]:
        start, length = self.vector(field, 4)
        if length > most:
            raise Refused(f"the .tflite file has {length} {what}, and this server takes {most}")
        self.file.spend(length)
        return start, length

    def _at(self, field: int) -> int | None:
        slot = 4 + 2 * field
        offset = self.file.read(self.vtable + slot, "<H") if slot < self.vtable_bytes else 0
        return self.position + offset if offset else None


class _Model:
    """What is the same for all graphs of a file, and which tables were looked at."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.file = _File(data)
        self.root = _Table(self.file, self.file.read(0, "<I"))
        if self.root.scalar(0, "<I") != SCHEMA_VERSION:
            raise Refused(f"the .tflite file is not of schema version {SCHEMA_VERSION}: convert the model again")
        codes = self.root.positions(1, MAX_CODES, "operator codes")
        for position in set(codes):
            _Table(self.file, position).vector(1, 1)
        self.codes = len(codes)
        self.buffers = self._checked_buffers()
        self.tensors: set[int] = set()
        self.operators: dict[int, tuple[int, int]] = {}

    def describe(self) -> dict[str, Any]:
        graphs = list(dict.fromkeys(self.root.positions(2, MAX_SUBGRAPHS, "graphs")))
        if not graphs:
            raise Refused("the .tflite file has no graph in it")
        shown = self._graph(_Table(self.file, graphs[0]))
        for position in graphs[1:]:
            self._graph(_Table(self.file, position))
        if not shown["inputs"] or not shown["outputs"]:
            raise Refused("the .tflite file's graph has no input or no output")
        return shown

    def _checked_buffers(self) -> int:
        positions = self.root.positions(4, MAX_RECORDS, "buffers")
        for position in set(positions):
            buffer = _Table(self.file, position)
            buffer.vector(0, 1)
            if buffer.scalar(1, "<Q") + buffer.scalar(2, "<Q") > len(self.file.data):
                raise Refused("the .tflite file is cut off: a weight extends past its end")
        return len(positions)

    def _graph(self, graph: _Table) -> dict[str, Any]:
        tensors = graph.positions(0, MAX_RECORDS, "tensors")
        for position in set(tensors) - self.tensors:
            self._check_tensor(_Table(self.file, position))
            self.tensors.add(position)
        operators = graph.positions(3, MAX_RECORDS, "operators")
        for position in set(operators):
            lowest, highest = self._named_tensors(position)
            if lowest < -1 or highest >= len(tensors):
                raise Refused("the .tflite file is damaged: an operator names a tensor that is not there")
        ends = {
            "inputs": graph.integers(1, MAX_ENDS, "inputs"),
            "outputs": graph.integers(2, MAX_ENDS, "outputs"),
        }
        if any(not 0 <= tensor < len(tensors) for numbers in ends.values() for tensor in numbers):
            raise Refused("the .tflite file is damaged: an input or output is not there")
        described = {side: [self._described(tensors[tensor]) for tensor in numbers] for side, numbers in ends.items()}
        return described | {"operators": len(operators)}

    def _check_tensor(self, tensor: _Table) -> None:
        if tensor.scalar(2, "<I") >= max(self.buffers, 1):
            raise Refused("the .tflite file is damaged: a tensor names a buffer that is not there")
        tensor.integers(0, MAX_RANK, "dimensions in a tensor")
        tensor.vector(3, 1)

    def _named_tensors(self, position: int) -> tuple[int, int]:
        """The lowest and the highest tensor that an operator names; its code is checked."""
        if position not in self.operators:
            operator = _Table(self.file, position)
            if operator.scalar(0, "<I") >= self.codes:
                raise Refused("the .tflite file is damaged: an operator has no code")
            named = [-1]
            for field in (1, 2):
                named += operator.integers(field, MAX_RECORDS, "tensors of an operator")
            self.operators[position] = min(named), max(named)
        return self.operators[position]

    def _described(self, position: int) -> dict[str, Any]:
        tensor = _Table(self.file, position)
        kind = tensor.scalar(1, "<b")
        return {
            "name": tensor.text(3),
            "type": TYPES[kind] if 0 <= kind < len(TYPES) else f"type {kind}",
            "shape": list(tensor.integers(0, MAX_RANK, "dimensions in a tensor")),
        }


def describe(data: mmap.mmap | bytes) -> dict[str, Any]:
    """`{inputs, outputs, operators}` of the first graph, tensors as `{name, type, shape}`. Raises Refused."""
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise Refused("this is not a .tflite file: it lacks the identifier TFL3 at byte 4")
    shown = _Model(data).describe()
    if len(json.dumps(shown)) > MAX_MANIFEST_BYTES:
        raise Refused(
            f"the names and shapes of the file's inputs and outputs take more than {MAX_MANIFEST_BYTES // 1000} KB: "
            "give them shorter names"
        )
    return shown


def _read_stdin() -> dict[str, Any]:
    try:
        with mmap.mmap(sys.stdin.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return describe(data)
    except Refused as error:
        return {"refused": str(error)}
    except ValueError:  # an empty file has no map
        return {"refused": "this is not a .tflite file: it is empty"}
    except MemoryError:
        return {"refused": "the .tflite file needs too much memory to be checked"}


def main() -> None:
    memory_bytes, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))  # first SIGXCPU, which says why
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.stdout.write(json.dumps(_read_stdin()) + "\n")


if __name__ == "__main__":
    main()

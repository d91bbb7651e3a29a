"""Small .tflite files, all offsets inside the file, whose shared parts expand to millions."""

from __future__ import annotations

import struct
from collections.abc import Sequence


class _Builder:
    def __init__(self) -> None:
        self.data = bytearray(8)
        self.data[4:8] = b"TFL3"

    def table(self, fields: Sequence[int | None]) -> tuple[int, dict[int, int]]:
        """Fields of four bytes; the table's position, and where each field is."""
        vtable = self._position()
        present = [number for number, field in enumerate(fields) if field is not None]
        offsets = [4 + 4 * present.index(number) if number in present else 0 for number in range(len(fields))]
        self.data += struct.pack(f"<HH{len(fields)}H", 4 + 2 * len(fields), 4 + 4 * len(present), *offsets)
        table = self._position()
        self.data += struct.pack("<i", table - vtable)
        self.data += b"".join(struct.pack("<I", field) for field in fields if field is not None)
        return table, {number: table + offsets[number] for number in present}

    def vector(self, values: Sequence[int]) -> int:
        position = self._position()
        self.data += struct.pack(f"<I{len(values)}I", len(values), *values)
        return position

    def text(self, text: bytes) -> int:
        position = self._position()
        self.data += struct.pack("<I", len(text)) + text + b"\0"
        return position

    def link(self, slot: int, target: int) -> None:
        self.data[slot : slot + 4] = struct.pack("<I", target - slot)

    def _position(self) -> int:
        self.data += bytes(-len(self.data) % 4)
        return len(self.data)


def shared_tflite(
    *,
    subgraphs: int = 1,
    tensors: int = 1,
    operators: int = 0,
    operands: int = 0,
    inputs: int = 1,
    name: bytes = b"in",
    rank: int = 1,
) -> bytes:
    """A file of one graph, one tensor and one operator, each named as often as asked for."""
    file = _Builder()
    model, of_model = file.table([3, 0, 0, None, 0])
    file.link(0, model)
    codes, graphs, buffers = file.vector([0]), file.vector([0] * subgraphs), file.vector([0])
    for field, vector in ((1, codes), (2, graphs), (4, buffers)):
        file.link(of_model[field], vector)
    graph, of_graph = file.table([0, 0, 0, 0])
    of_tensors, of_operators = file.vector([0] * tensors), file.vector([0] * operators)
    ends = file.vector([0] * inputs), file.vector([0])
    for field, vector in enumerate((of_tensors, *ends, of_operators)):
        file.link(of_graph[field], vector)
    tensor, of_tensor = file.table([0, None, None, 0])
    file.link(of_tensor[0], file.vector([1] * rank))
    file.link(of_tensor[3], file.text(name))
    operator, of_operator = file.table([None, 0, None])
    file.link(of_operator[1], file.vector([0] * operands))
    empty, _ = file.table([None, None])
    for vector, count, target in (
        (codes, 1, empty),
        (graphs, subgraphs, graph),
        (buffers, 1, empty),
        (of_tensors, tensors, tensor),
        (of_operators, operators, operator),
    ):
        for number in range(count):
            file.link(vector + 4 + 4 * number, target)
    return bytes(file.data)

"""Which operators of a file delegates take, before it is measured; for XNNPACK also in how many partitions.

An operator that a delegate does not take splits the graph, and everything around it is copied between two runtimes;
a time measured of such a file says nothing of the network. XNNPACK is asked itself; a GPU delegate cannot be asked
here, so rules stand for it (`gpu_rules`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ai_edge_litert.interpreter import Interpreter

from elasticvit.errors import ExportError
from elasticvit.export.tflite.check import load_tflite
from elasticvit.export.tflite.flatbuffer import Generated
from elasticvit.export.tflite.gpu_rules import why_not
from elasticvit.export.tflite.reader import transposed_matmuls
from elasticvit.export.tflite.writer import TfliteOp


@dataclass(frozen=True, slots=True)
class Uncovered:
    """An operator that a delegate leaves: its place in the file, its builtin name, its layer's, and why if known."""

    index: int
    builtin: str
    layer: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of a file's operators.

    Attributes:
        operators: in the file. delegated: of these, taken by XNNPACK. partitions: pieces that it took them in.
        uncovered: those that it left; empty where all is well.
        gpu: those that LiteRT's GPU delegate is known to leave or to get wrong.
    """

    operators: int
    delegated: int
    partitions: int
    uncovered: tuple[Uncovered, ...]
    gpu: tuple[Uncovered, ...]

    @property
    def whole(self) -> bool:
        return self.partitions == 1 and not self.uncovered

    def summary(self) -> dict[str, object]:
        """For the manifest: counts for XNNPACK, and for each reason the layers that a GPU delegate would not do."""
        reasons: dict[str, list[str]] = {}
        for op in self.gpu:
            reasons.setdefault(f"{op.builtin}: {op.why}", []).append(op.layer)
        xnnpack = {"operators": self.operators, "delegated": self.delegated, "partitions": self.partitions}
        left = [f"{op.builtin} at {op.layer}" for op in self.uncovered]
        return {"xnnpack": xnnpack | {"uncovered": left}, "gpu": {"uncovered": reasons}}


def coverage(data: bytes, ops: Sequence[TfliteOp], interpreter: Interpreter | None = None) -> Coverage:
    """Ask XNNPACK, without running the file.

    Args:
        ops: the operators of the file in order, as `write_tflite` gives them.
        interpreter: of this file, if the caller has loaded it.

    Raises:
        ExportError: LiteRT does not take the file, or it has other operators than these.
    """
    interpreter = interpreter or load_tflite(data)
    # The one way to see what a delegate took: its nodes stand behind the file's own.
    nodes = interpreter._get_ops_details()
    own, pieces = nodes[: len(ops)], nodes[len(ops) :]
    if len(own) != len(ops) or any(piece["op_name"] != "DELEGATE" for piece in pieces):
        raise ExportError(f"the file has other operators than the {len(ops)} that were written")
    taken = {i for piece in pieces for i in _inside(piece, own)}
    left = tuple(Uncovered(op.index, op.builtin, op.name) for op in ops if op.index not in taken)
    transposed = transposed_matmuls(data)
    refused = [(op, why_not(op.builtin, op.index in transposed)) for op in ops]
    gpu = tuple(Uncovered(op.index, op.builtin, op.name, why) for op, why in refused if why is not None)
    return Coverage(len(ops), len(taken), len(pieces), left, gpu)


def require_whole(covered: Coverage) -> None:
    """Raises `ExportError`, naming the layers, where XNNPACK would not take a file in one piece."""
    if covered.whole:
        return
    named = ", ".join(f"{op.builtin} at {op.layer}" for op in covered.uncovered[:5])
    more = f" and {len(covered.uncovered) - 5} more" if len(covered.uncovered) > 5 else ""
    raise ExportError(
        f"XNNPACK takes {covered.delegated} of {covered.operators} operators, in {covered.partitions} pieces; it leaves"
        f" {named or 'none'}{more}. The file would be slow for a reason that is not the network's; nothing was written"
    )


def _inside(piece: Generated, own: Sequence[Generated]) -> set[int]:
    """The file's operators between a delegate's inputs and its outputs."""
    makers = {int(tensor): i for i, node in enumerate(own) for tensor in node["outputs"]}
    outside = {int(tensor) for tensor in piece["inputs"]}
    inside: set[int] = set()
    wanted = [int(tensor) for tensor in piece["outputs"]]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker is not None and maker not in inside:
            inside.add(maker)
            wanted += [int(tensor) for tensor in own[maker]["inputs"] if int(tensor) not in outside]
    return inside

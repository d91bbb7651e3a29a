"""What a worker asks of its exporting process and what it gets back. Plain values: neither side brings torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from elasticvit.accuracy.value import Accuracy
from elasticvit.latency.profile import FileOp

What = Literal["tflite", "onnx", "pt2", "ops", "load", "images"]


@dataclass(frozen=True)
class Order:
    """One piece of work on a supernet file.

    `what`: a `tflite` with its manifest; the same network as `onnx` or `pt2`; only the `ops` of its file, unchecked; or
    no network at all: `load` the supernet, so that the next order finds it there, or look whether its `images` lie on
    this machine. `arch` is canonical JSON, None for those two. Without `recalibrate` the network keeps its norms as
    they are cut, for its latency only. `table_sha256` is of the table beside the supernet, None where there is none.
    `stored` is the model's own `.tflite`, which another format of it is compared with.
    """

    what: What
    supernet: str
    file: Path
    sha256: str
    arch: str | None = None
    precision: str = "float32"
    recalibrate: bool = True
    seed: int = 0
    table_sha256: str | None = None
    stored: Path | None = None


@dataclass(frozen=True)
class Product:
    """What came of an order: the file's bytes, for a `.tflite` the manifest, its accuracy where that is known,
    and the operators. `images` says whether the supernet's images are at hand, so that accuracies are measured."""

    images: bool
    data: bytes = b""
    manifest: Mapping[str, Any] | None = None
    accuracy: Accuracy | None = None
    ops: tuple[FileOp, ...] = ()


class Watch(Protocol):
    """Who waits for an order: told of every stage, asked often whether it is still wanted; both may raise to end it."""

    def stage(self, name: str) -> None: ...

    def check(self) -> None: ...


class Unwatched:
    """Nobody is told, nothing is asked."""

    def stage(self, name: str) -> None:
        del name

    def check(self) -> None:
        return


class Exporter(Protocol):
    """Does orders, one at a time; callable from any thread."""

    def run(self, order: Order, watch: Watch) -> Product:
        """Raises what the work raises: ElasticVitError, ServerError; and what `watch` raises."""
        ...

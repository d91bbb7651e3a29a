"""What a worker orders of its exporting process, and what comes back. Plain values: neither side imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.latency.profile import FileOp
from server.store.supernet_file import SupernetRef
from server.wire import OtherFormat, PrecisionName

Result = TypeVar("Result")


@dataclass(frozen=True)
class Order(Generic[Result]):
    """One piece of work on a supernet file; `Result` is the type of what comes back."""

    supernet: SupernetRef


@dataclass(frozen=True)
class ExportedFile:
    """A `.tflite` with its manifest and the top-1 of its network. `images` says whether the supernet's images were
    there, so that accuracies were measured; False when none were needed."""

    data: bytes
    manifest: Mapping[str, Any]
    accuracy: Accuracy | None
    images: bool


@dataclass(frozen=True)
class ExportTflite(Order[ExportedFile]):
    """A sub-network as `.tflite`. Without `recalibrate` it keeps the supernet's batch norms, and its accuracy stays
    unknown: enough to measure its latency."""

    arch: Arch
    precision: PrecisionName = "float32"
    recalibrate: bool = True
    seed: int = 0


@dataclass(frozen=True)
class ConvertFile(Order[bytes]):
    """The float32 network of a stored model in another format. `tflite` is the model's own file: the work fails with
    Conflict when the supernet no longer gives that network."""

    arch: Arch
    format: OtherFormat
    tflite: Path
    recalibrate: bool = True
    seed: int = 0


@dataclass(frozen=True)
class ListOps(Order[tuple[FileOp, ...]]):
    """The operators of the `.tflite` of an architecture, in file order, each with its block; no file is kept."""

    arch: Arch


@dataclass(frozen=True)
class LoadSupernet(Order[bool]):
    """Load the supernet, so that the next order finds it in memory; the result says whether its images were loaded."""


@dataclass(frozen=True)
class FindImages(Order[bool]):
    """Whether this machine has a folder of the supernet's images; nothing is loaded."""


class Watch(Protocol):
    """Who waits for an order: called at every stage, and often while it runs. Both methods may raise to end it."""

    def stage(self, name: str) -> None: ...

    def check(self) -> None: ...


class Unwatched:
    """Ignores stages and never ends an order."""

    def stage(self, name: str) -> None:
        del name

    def check(self) -> None:
        return


class Exporter(Protocol):
    """Runs orders, one at a time; callable from any thread."""

    def run(self, order: Order[Result], watch: Watch) -> Result:
        """Raises what the work raises, ElasticVitError or ServerError, and what `watch` raises."""
        ...

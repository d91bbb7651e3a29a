"""From an architecture to a stored model: an earlier export is reused, a new one is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from elasticvit.archs.arch import Arch
from elasticvit.latency.profile import FileOp
from server.compute.exporting.order import ExportedFile, Exporter, ExportTflite, ListOps, Unwatched, Watch
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.task import Compute
from server.services import models
from server.services.export_key import export_key
from server.services.models import NewModel
from server.store.tables import Model
from server.wire import ModelSource, PrecisionName

UNWATCHED = Unwatched()


class Reporting(Protocol):
    """What a progress reporter needs of a task."""

    def say(self, stage: str, done: int = 0, total: int | None = None, detail: str | None = None) -> None: ...

    def look(self) -> None: ...


@dataclass(frozen=True)
class ProgressReporter:
    """Reports an export as a task's progress.

    Without `what`, each stage of the export is a stage of the task. With it, the task's stage is `what`, `done` of
    `total` are finished, and the export's stage is the detail.
    """

    task: Reporting
    what: str | None = None
    done: int = 0
    total: int | None = None

    def stage(self, name: str) -> None:
        if self.what is None:
            self.task.say(name)
        else:
            self.task.say(self.what, self.done, self.total, name)

    def check(self) -> None:
        self.task.look()


def export_subnet(
    compute: Compute,
    exporter: Exporter,
    served: ServedSupernet,
    arch: Arch,
    source: ModelSource,
    *,
    precision: PrecisionName = "float32",
    watch: Watch = UNWATCHED,
) -> Model:
    """One recalibrated sub-network with its known accuracy, checked against torch. If any job exported it before, that
    model is returned.

    Raises:
        SpaceError, DataError, ExportError, SupernetFileError, ExportCrashed, DiskFull, ReadOnlyHome; what `watch`
            raises.
    """
    order = ExportTflite(served.ref, served.space.adopt(arch), precision)
    return _export(compute, exporter, order, source, watch)


def export_for_timing(
    compute: Compute, exporter: Exporter, served: ServedSupernet, arch: Arch, watch: Watch = UNWATCHED
) -> Model:
    """A sub-network for its latency only: it keeps the supernet's norms, and its accuracy stays unknown."""
    order = ExportTflite(served.ref, served.space.adopt(arch), recalibrate=False)
    return _export(compute, exporter, order, "calibration", watch)


def ops_of(exporter: Exporter, served: ServedSupernet, arch: Arch, watch: Watch = UNWATCHED) -> tuple[FileOp, ...]:
    """The operators of an architecture's file, in file order, each with its block; they do not depend on weights."""
    return exporter.run(ListOps(served.ref, arch), watch)


def _export(compute: Compute, exporter: Exporter, order: ExportTflite, source: ModelSource, watch: Watch) -> Model:
    key = export_key(
        order.supernet, order.arch, precision=order.precision, recalibrate=order.recalibrate, seed=order.seed
    )
    with compute.database.read() as session:
        model = models.exported(session, compute.blobs, key)
    if model is not None:
        return model
    exported = exporter.run(order, watch)
    watch.check()
    return _store(compute, order, exported, source, key)


def _store(compute: Compute, order: ExportTflite, exported: ExportedFile, source: ModelSource, key: str) -> Model:
    """Store the file as a model. If one with the same bytes exists, that one is returned."""
    # Outside the transaction: a large file takes a moment to reach the disk, and SQLite has one writer at a time.
    file = models.store_bytes(compute.blobs, exported.data)
    new = NewModel(
        file,
        source,
        exported.manifest,
        precision=order.precision,
        arch=order.arch,
        accuracy=exported.accuracy,
        supernet=order.supernet.name,
        export_key=key,
    )
    with compute.database.write() as session:
        if exported.images:
            models.forget_unmeasured(session, order.supernet.name)
        return models.add(session, new, compute.clock())

"""From an architecture to a stored model: found, where it was exported before, else made by the exporter and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elasticvit.archs.arch import Arch, arch_object
from elasticvit.costs.flops import macs, params
from elasticvit.latency.profile import FileOp
from server.compute.exporting.order import Exporter, Order, Product, Unwatched, Watch, What
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.task import Compute, Task
from server.services import models
from server.services.export_key import export_key
from server.services.models import Source
from server.store.tables import Model
from server.wire import PrecisionName

UNWATCHED = Unwatched()


@dataclass(frozen=True)
class ProgressReporter:
    """Tells a task's progress: the stages of an export, or, of one among `total`, as the detail of `what`."""

    task: Task
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
    source: Source,
    *,
    precision: PrecisionName = "float32",
    watch: Watch = UNWATCHED,
) -> Model:
    """One sub-network with recalibrated norms and what is known of its accuracy, checked against torch. One that was
    exported before, by whatever kind of job, is that model.

    Raises:
        SpaceError, DataError, ExportError, SupernetFileError, ExportCrashed, DiskFull, ReadOnlyHome; what `watch`
            raises.
    """
    return _export(compute, exporter, served, arch, source, precision, watch)


def export_for_timing(
    compute: Compute, exporter: Exporter, served: ServedSupernet, arch: Arch, watch: Watch = UNWATCHED
) -> Model:
    """A sub-network as it is cut, for its latency only: norms and accuracy do not change what it does."""
    return _export(compute, exporter, served, arch, "calibration", "float32", watch)


def ops_of(exporter: Exporter, served: ServedSupernet, arch: Arch, watch: Watch = UNWATCHED) -> tuple[FileOp, ...]:
    """What each operator of an arch's file belongs to; weights do not matter, so the supernet's do."""
    return exporter.run(order_of(served, arch, "ops", recalibrate=False), watch).ops


def order_of(
    served: ServedSupernet,
    arch: Arch,
    what: What,
    *,
    recalibrate: bool = True,
    precision: PrecisionName = "float32",
    stored: Path | None = None,
) -> Order:
    return Order(
        what,
        served.name,
        served.file,
        served.sha256,
        arch.to_json(),
        precision,
        recalibrate,
        table_sha256=served.table_sha256,
        stored=stored,
    )


def _export(
    compute: Compute,
    exporter: Exporter,
    served: ServedSupernet,
    arch: Arch,
    source: Source,
    precision: PrecisionName,
    watch: Watch,
) -> Model:
    arch = served.space.adopt(arch)
    recalibrate = source != "calibration"
    key = export_key(arch, served.sha256, served.table_sha256, precision=precision, recalibrate=recalibrate)
    with compute.database.read() as session:
        found = models.exported(session, compute.blobs, key)
    if found is not None:
        return found
    product = exporter.run(order_of(served, arch, "tflite", recalibrate=recalibrate, precision=precision), watch)
    watch.check()
    return _keep(compute, product, served, arch, source, precision, key)


def _keep(
    compute: Compute, product: Product, served: ServedSupernet, arch: Arch, source: Source, precision: str, key: str
) -> Model:
    """Store the file and its row; the same bytes twice are one model."""
    assert product.manifest is not None
    # Outside the transaction: a large file takes a moment to reach the disk, and nobody else could write meanwhile.
    kept = models.Kept(compute.blobs.put(product.data), len(product.data))
    with compute.database.write() as session:
        if product.images:
            models.forget_unmeasured(session, served.name)
        return models.store(
            session,
            compute.blobs,
            file=kept,
            source=source,
            now=compute.clock(),
            manifest=product.manifest,
            precision=precision,
            arch=arch_object(arch),
            arch_id=arch.id,
            macs=macs(arch),
            params=params(arch),
            accuracy=models.wire_accuracy(product.accuracy),
            supernet=served.name,
            export_key=key,
        )

"""What a calibration fits: the usable sessions of a device profile, as block rows and whole networks.

The operator profile of a session is aligned with the operators of its file once, and its block rows are stored; later
calibrations read them. A session that cannot be used is skipped with its reason, so that it spoils no calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from elasticvit.archs.arch import Arch
from elasticvit.costs.blocks import blocks
from elasticvit.errors import ArchError, ExportError, PredictorError, SpaceError
from elasticvit.latency.profile import FileOp, profile_to_rows
from elasticvit.latency.rows import BlockRow, WholeSample
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import ProgressReporter, ops_of
from server.compute.jobs.tools import Tools
from server.compute.task import Task
from server.errors import ExportCrashed
from server.services import block_rows, measurements, p90
from server.services.measurements import UsableSession
from server.store import tables
from server.version import VERSION

log = structlog.get_logger()


@dataclass(frozen=True)
class SkippedSession:
    """A session that was left out, by its measurement's id."""

    measurement: str
    reason: str


@dataclass(frozen=True)
class Samples:
    """The arguments of `fit_predictor`, and what was left out of them."""

    rows: Sequence[BlockRow]
    wholes: Sequence[WholeSample]
    skipped: Sequence[SkippedSession]

    @property
    def networks(self) -> int:
        """Distinct architectures among the whole networks."""
        return len({whole.arch.id for whole in self.wholes})


def read_samples(task: Task, tools: Tools, served: ServedSupernet, profile_id: str) -> Samples:
    """The samples of a supernet on a device profile; aligns the sessions that were not aligned before.

    Raises BadValue while no usable session has the anchor, SupernetFileError, Stopped, Lost.
    """
    with task.compute.database.write() as session:
        reference_ms = measurements.fix_anchor_reference(session, profile_id, task.job.device)
        p90.judge_old(session, profile_id)
    with task.compute.database.read() as session:
        usable = measurements.usable(session, profile_id, supernet=served.name, device=task.job.device)
        stored = block_rows.stored(session, profile_id)
        unaligned = block_rows.unaligned(session, profile_id, VERSION)
    reader = _Reader(task, tools, served, reference_ms, stored, unaligned)
    rows: list[BlockRow] = []
    wholes: list[WholeSample] = []
    skipped: list[SkippedSession] = []
    for number, measured in enumerate(usable):
        try:
            whole, session_rows = reader.read(measured, number, len(usable))
        except (ArchError, SpaceError, ExportError, PredictorError, ExportCrashed) as error:
            log.warning("session skipped", job=task.job.id, measurement=measured.measurement_id, reason=str(error))
            skipped.append(SkippedSession(measured.measurement_id, str(error)))
            continue
        wholes.append(whole)
        rows += session_rows
    return Samples(rows, wholes, skipped)


@dataclass
class _Reader:
    task: Task
    tools: Tools
    served: ServedSupernet
    reference_ms: float
    stored: Mapping[str, Sequence[tables.BlockRow]]
    unaligned: Mapping[str, str]
    file_ops: dict[str, tuple[FileOp, ...]] = field(default_factory=dict)

    def read(self, measured: UsableSession, number: int, total: int) -> tuple[WholeSample, Sequence[BlockRow]]:
        """Times in ms at the anchor's reference speed. Raises what makes the session unusable."""
        arch = Arch.from_json(measured.arch)
        if not self.served.space.contains(arch):
            raise SpaceError(f"architecture {measured.arch_id} is not in the space of '{self.served.name}'")
        speed = self.reference_ms / measured.anchor_p50_ms
        p50_ms = measured.p50_raw_ms * speed
        p90_ms = None if measured.p90_raw_ms is None else measured.p90_raw_ms * speed
        _check_times([p50_ms, p90_ms or p50_ms])
        if not measured.profiled:
            return WholeSample(arch, p50_ms, p90_ms), []
        rows: Sequence[BlockRow] | None = self._stored_rows(measured, arch)
        if rows is None:
            rows = self._align(measured, arch, p50_ms, ProgressReporter(self.task, "aligning", number, total))
        # Rows and overhead sum to the p50: `profile_to_rows` makes them so.
        overhead_ms = max(p50_ms - math.fsum(row.ms for row in rows), 0.0)
        return WholeSample(arch, p50_ms, p90_ms, overhead_ms), rows

    def _stored_rows(self, measured: UsableSession, arch: Arch) -> list[BlockRow] | None:
        """None where there are none, or where they are of blocks that this version divides otherwise."""
        stored = self.stored.get(measured.measurement_id, ())
        if [row.block for row in stored] != [block.key for block in blocks(arch)]:
            return None
        times_ms = [row.latency_ms for row in stored]
        _check_times(times_ms)
        return [BlockRow(arch.id, block, ms) for block, ms in zip(blocks(arch), times_ms, strict=True)]

    def _align(
        self, measured: UsableSession, arch: Arch, p50_ms: float, progress: ProgressReporter
    ) -> Sequence[BlockRow]:
        if (reason := self.unaligned.get(measured.measurement_id)) is not None:
            raise PredictorError(reason)
        database = self.task.compute.database
        with database.read() as session:
            profile = measurements.ops(session, measured.measurement_id)
        try:
            rows = profile_to_rows(arch, profile, self._ops_of(arch, progress), p50_ms).rows
            _check_times([row.ms for row in rows])
        except (ExportError, PredictorError) as error:
            with database.write() as session:
                now = self.task.compute.clock()
                block_rows.store_unaligned(session, measured.measurement_id, str(error), VERSION, now)
            raise
        with database.write() as session:
            values = [(row.block.kind.value, row.block.key, row.ms) for row in rows]
            block_rows.store(session, measured.measurement_id, values)
        return rows

    def _ops_of(self, arch: Arch, progress: ProgressReporter) -> tuple[FileOp, ...]:
        if arch.id not in self.file_ops:
            self.task.say(progress.what or "aligning", progress.done, progress.total)
            self.file_ops[arch.id] = ops_of(self.tools.exporter, self.served, arch, progress)
        return self.file_ops[arch.id]


def _check_times(times_ms: Sequence[float]) -> None:
    """Raises PredictorError for times that no predictor can be fitted to."""
    if not all(math.isfinite(ms) and ms > 0 for ms in times_ms):
        raise PredictorError("measured times must be positive and finite")

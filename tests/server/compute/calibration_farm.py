"""What the tests of calibrations share: a device and an exporter that are made up, round a real queue and database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.costs.blocks import blocks
from elasticvit.errors import ExportError
from elasticvit.latency.fit import fit_predictor
from elasticvit.latency.predictor import LatencyPredictor
from elasticvit.latency.profile import FileOp
from elasticvit.latency.rows import BlockRow, WholeSample
from server.compute import worker
from server.compute.exporting.order import ExportedFile, ExportTflite, ListOps
from server.compute.jobs.calibrate import calibrate
from server.compute.jobs.tools import Tools
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Task
from server.services import claims, models, reports
from server.store.tables import Model
from server.wire import JobKind, Report
from tests.server.compute.exporting_farm import compute_of, served
from tests.server.server_farm import Farm, session_body
from tests.server.supernet_files import supernet_file

US_PER_BLOCK = 100.0


class FakeExporter:
    """Files of a few bytes, with one operator a block; counts the orders by their type."""

    def __init__(self) -> None:
        self.orders: Counter[type] = Counter()
        self.refused: set[str] = set()

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        watch.check()
        self.orders[type(order)] += 1
        if isinstance(order, ExportTflite):
            return ExportedFile(order.arch.to_json().encode(), {}, None, False)
        assert isinstance(order, ListOps)
        if order.arch.id in self.refused:
            raise ExportError("this network cannot be written")
        return tuple(FileOp("CONV_2D", i) for i in range(len(blocks(order.arch))))


@dataclass
class FakeDevice:
    """Answers every measuring job of `host`: `change` may alter the session of a network's n-th measurement."""

    farm: Farm
    agent_id: str
    change: Callable[[Arch, int, dict[str, Any]], dict[str, Any]] = lambda _arch, _number, body: body
    sessions: Counter[str] = field(default_factory=Counter)

    def measure_all(self) -> None:
        while True:
            with self.farm.database.write() as session:
                claimed = claims.claim_device(session, self.agent_id, ["host"], self.farm.clock(), 60)
                if claimed is None:
                    return
                assert claimed.job.model_id is not None
                model = models.get(session, claimed.job.model_id)
                report = {"lease_id": claimed.lease_id, "attempt": claimed.attempt, **self._outcome(model)}
                reports.accept(session, Report.model_validate(report), self.farm.clock())

    def _outcome(self, model: Model) -> dict[str, Any]:
        arch = Arch.from_json(self.farm.blobs.find(model.sha256).read_text())
        count = len(blocks(arch))
        body = session_body(model_ms=count * US_PER_BLOCK / 1e3)
        us = US_PER_BLOCK
        body["profile"] = [
            {"node": i, "tag": "CONV_2D", "count": 30, "total_us": us * 30, "avg_us": us} for i in range(count)
        ]
        number = self.sessions[arch.id]
        self.sessions[arch.id] += 1
        body = self.change(arch, number, body)
        return body if "outcome" in body else {"outcome": "measured", "session": body}


class RecordedFit:
    """Keeps what was to be fitted. Fits a predictor once, since that takes seconds, and then returns the same."""

    predictor: ClassVar[LatencyPredictor | None] = None

    def __init__(self) -> None:
        self.rows: list[Sequence[BlockRow]] = []
        self.wholes: list[Sequence[WholeSample]] = []

    def __call__(self, space: Space, rows: Sequence[BlockRow], wholes: Sequence[WholeSample]) -> LatencyPredictor:
        self.rows.append(rows)
        self.wholes.append(wholes)
        if RecordedFit.predictor is None:
            RecordedFit.predictor = fit_predictor(space, rows, wholes)
        return RecordedFit.predictor


@dataclass
class CalibrationFarm:
    farm: Farm
    supernet: str
    device: FakeDevice
    exporter: FakeExporter = field(default_factory=FakeExporter)
    fit: RecordedFit = field(default_factory=RecordedFit)

    def calibrate(self, count: int = 9) -> dict[str, Any]:
        """Queue a calibration and do one attempt of it as a worker does; the job as GET /jobs shows it."""
        body = {"kind": "calibrate", "device": "host", "supernet": self.supernet, "count": count}
        return self.attempt(self.farm.ok("POST", "/jobs", "user", json=body)["url"])

    def attempt(self, url: str) -> dict[str, Any]:
        """Until the job has ended or is queued again because it failed; what it waits for is measured at once."""
        while True:
            self.step()
            job: dict[str, Any] = self.farm.ok("GET", url)
            if job["wait_until"] is None:
                return job
            self.device.measure_all()

    def step(self) -> None:
        """Claim the calibration and do what it does until it waits or ends."""
        compute = compute_of(self.farm)
        tools = Tools(SupernetCache(compute), self.exporter, self.exporter)
        with self.farm.database.write() as session:
            claimed = claims.claim_compute(session, "by-hand", (JobKind.CALIBRATE,), self.farm.clock())
        assert claimed is not None
        task = Task(compute, claimed, threading.Event())
        worker.run_job(task, lambda task: calibrate(task, tools, self.fit))


def calibration_farm(farm: Farm, tmp_path: Path) -> CalibrationFarm:
    supernet = served(farm, supernet_file(tmp_path / "tiny.safetensors"))
    farm.anchor()
    return CalibrationFarm(farm, supernet, FakeDevice(farm, farm.agent()))


def with_unknown_tag(body: dict[str, Any]) -> dict[str, Any]:
    """A session whose operators no file has."""
    body["profile"] = [{**line, "tag": "Unheard Of (NC)"} for line in body["profile"]]
    return body


def shaken(body: dict[str, Any]) -> dict[str, Any]:
    """A session whose rounds differ too much."""
    for measured in body["rounds"][:2]:
        measured["model"]["samples_ns"] = [ns * 3 for ns in measured["model"]["samples_ns"]]
    return body

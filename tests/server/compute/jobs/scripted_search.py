"""What the tests of searches share: scripted sessions, a stand-in for the exporter, and budgets that can be met."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.costs.flops import macs
from elasticvit.latency.predictor import LatencyPredictor
from server.compute.exporting.order import ExportedFile, ExportTflite
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.jobs.search import search
from server.compute.jobs.tools import Tools
from server.compute.sessions import SessionEnd, SessionOrder, Wait
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Compute
from server.services import models, searches
from server.services.askers import SERVICE
from server.store.tables import Job, Measurement, Model
from server.wire import JobKind, SearchRequest
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.compute.exporting_farm import compute_of
from tests.server.server_farm import START, Farm

LARGEST_MACS = macs(tiny_space().largest())
Measure = Callable[[Model, str], Measurement | None]


def measured(model: Model, p50_ms: float | None, stable: bool = True, p90_ms: float | None = None) -> Measurement:
    """A session of a model; latencies at the anchor's reference speed, None before there is one."""
    return Measurement(
        id=f"measurement-of-{model.id}",
        lease_id="lease",
        job_id="job",
        model_id=model.id,
        profile_id="profile",
        device="host",
        p50_raw_ms=(p50_ms or 1.0) * 2,
        p90_raw_ms=(p90_ms or p50_ms or 1.0) * 2,
        p50_ms=p50_ms,
        p90_ms=p90_ms or p50_ms,
        stable=stable,
        p90_stable=stable,
        emulated=False,
        samples=100,
        session={},
        created_at=START,
    )


@dataclass
class ScriptedTask:
    """A task whose sessions are scripted. `sessions` are the (arch id, key) that were measured, in order."""

    compute: Compute
    job: Job
    measure: Measure
    sessions: list[tuple[str | None, str]] = field(default_factory=list)
    stages: list[tuple[str, int, int | None]] = field(default_factory=list)
    ends: dict[str, SessionEnd] = field(default_factory=dict)
    waits: int = 0
    ended: Exception | None = None

    def say(self, stage: str, done: int = 0, total: int | None = None, detail: str | None = None) -> None:
        del detail
        if (stage, done, total) not in self.stages:
            self.stages.append((stage, done, total))

    def look(self) -> None:
        if self.ended is not None:
            raise self.ended

    def session_end(self, order: SessionOrder) -> SessionEnd | None:
        return self.ends.get(order.child_key)

    def go_on(self, wait: Wait) -> None:
        """The sessions are measured, and the next attempt begins, maybe in another process."""
        assert wait.stage == "measuring on host"
        self.waits += 1
        for order in wait.sessions:
            assert order.device == "host" and not order.protocol.profile and order.priority > 0
            assert order.child_key not in self.ends, "it was measured before"
            with self.compute.database.read() as session:
                model = models.get(session, order.model_id)
            self.sessions.append((model.arch_id, order.key))
            self.ends[order.child_key] = SessionEnd(self.measure(model, order.key))
        self.job.checkpoint = json.loads(json.dumps(wait.checkpoint))


def top1(arch: Arch) -> float:
    return 0.5 + 0.4 * macs(arch) / LARGEST_MACS


@dataclass
class StandInExporter:
    """Files that hold the architecture; top-1 rises with its MACs. `top1_change` is what the precision costs."""

    top1_change: float | None = None
    archs: list[Arch] = field(default_factory=list)
    reported: Callable[[Arch], float] = top1

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        assert isinstance(order, ExportTflite) and order.recalibrate
        watch.stage("writing and checking")
        watch.check()
        self.archs.append(order.arch)
        change = None if self.top1_change is None else {"value": self.top1_change, "images": 9, "source": "measured"}
        manifest: dict[str, Any] = {"latency": [], "terms": "for tests", "top1_change": change}
        return ExportedFile(order.arch.to_json().encode(), manifest, Accuracy(value=self.reported(order.arch)), False)


@dataclass(frozen=True)
class Setting:
    """A farm with one device, one supernet, and budgets between the latencies of its smallest and largest network."""

    farm: Farm
    served: ServedSupernet
    predictor: LatencyPredictor

    @property
    def smallest_ms(self) -> float:
        return float(self.predictor.smallest_upper_ms(0.9)[0])

    @property
    def budget_ms(self) -> float:
        """Two thirds of the way up, on a logarithmic scale."""
        return float(self.smallest_ms ** (1 / 3) * self.predictor.largest_upper_ms(0.9)[0] ** (2 / 3))

    def request(self, **more: Any) -> SearchRequest:  # noqa: ANN401
        body = {"device": "host", "budget": {"latency_ms": self.budget_ms}, "allow_uncalibrated": True, "seed": 0}
        return SearchRequest.model_validate({**body, **more})

    def task(self, measure: Measure, **more: Any) -> ScriptedTask:  # noqa: ANN401
        database = self.farm.database
        with database.write() as session:
            created = searches.create(
                session,
                self.request(**more),
                self.farm.clock(),
                3,
                SERVICE,
                self.farm.state.settings.supernets_folder,
            )
        with database.read() as session:
            job = searches.get(session, created.id)[1]
        assert job.kind == JobKind.SEARCH
        return ScriptedTask(compute_of(self.farm), job, measure)

    def run(self, task: ScriptedTask, exporter: StandInExporter | None = None) -> Any:  # noqa: ANN401
        exporter = exporter or StandInExporter()
        while isinstance(outcome := search(task, Tools(SupernetCache(task.compute), exporter, exporter)), Wait):
            task.go_on(outcome)
        return outcome

    def upper_ms(self, arch: Arch) -> float:
        return float(self.predictor.upper_ms(self.served.space.encode(arch)[None], 0.9)[0])


def never(model: Model, key: str) -> Measurement | None:
    raise AssertionError(f"{model.id} was measured as {key}")


def latency(answer: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = answer["latency"]["host"]
    return figures

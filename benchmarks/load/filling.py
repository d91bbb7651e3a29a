"""A database as after months of use: hundreds of finished searches, models, measurements and jobs, made by services."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlmodel import Session

from elasticvit.archs.arch import Arch, arch_object
from elasticvit.archs.published import PUBLISHED
from server.services import (
    claims,
    devices,
    job_ends,
    leases,
    models,
    predictors,
    reports,
    searches,
    submissions,
    supernets,
    tokens,
)
from server.services.askers import SERVICE
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.tables import Agent, Model
from server.wire import (
    Accuracy,
    AgentRegister,
    BenchRun,
    Budget,
    Candidate,
    DeviceDescription,
    DeviceKind,
    JobKind,
    LatencyAnswer,
    MeasurementSession,
    MeasureProtocol,
    ModelSource,
    OpTime,
    PredictorRef,
    Report,
    Role,
    Round,
    SearchModel,
    SearchRequest,
    SearchResult,
)

OPERATORS, FRONTIER = 40, 40
OFFLINE_AFTER = timedelta(seconds=20)


@dataclass(frozen=True)
class Filled:
    """What the requests name."""

    admin: str
    user: str
    agent: str
    model_id: str
    search_id: str
    job_id: str


def fill(settings: Settings, number: int) -> Filled:
    """Fill a home folder with `number` finished searches, as many models and measurements."""
    database = prepare(settings)
    blobs = Blobs(settings.blobs_folder)
    now = datetime.now(UTC) - timedelta(days=30)
    with database.write() as session:
        filling = _Filling(session, blobs, settings, now)
        filled = filling.all(number)
    database.close()
    return filled


class _Filling:
    """The steps, with the time that passes between them."""

    def __init__(self, session: Session, blobs: Blobs, settings: Settings, now: datetime) -> None:
        self._session, self._blobs, self._settings, self._now = session, blobs, settings, now
        self._rng = random.Random(0)
        self._archs = list(PUBLISHED.values())
        self._described = {arch.id: arch_object(arch) for arch in self._archs}

    def all(self, number: int) -> Filled:
        session = self._session
        user = tokens.create(session, "load-user", Role.USER, self._now).token
        agent_token = tokens.create(session, "load-agent", Role.AGENT, self._now)
        body = AgentRegister(name="load-host", version="1", devices=[describe("host", "host")])
        agent = devices.register(session, body, agent_token.id, self._now, OFFLINE_AFTER)
        self._supernet()
        self._predictor()
        model_id = search_id = job_id = ""
        for number_now in range(number):
            self._now += timedelta(minutes=1)
            model = self._model(number_now)
            model_id = model.id
            job_id = self._measured(model_id, agent)
            search_id = self._search(model)
            session.expunge_all()  # it would look through ever more objects
        admin = self._settings.admin_token_file.read_text().strip()
        return Filled(admin, user, agent_token.token, model_id, search_id, job_id)

    def _supernet(self) -> None:
        file = self._settings.supernets_folder / "load.safetensors"
        header = b'{"__metadata__":{"space":"small"}}'
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        supernets.register(self._session, name="load", file=file, now=self._now, space="small", classes=1000)

    def _predictor(self) -> None:
        profile_id = devices.get(self._session, "host").profile_id
        # The reference is fixed by measurements otherwise.
        devices.get_profile(self._session, profile_id).anchor_reference_ms = 1.0
        self._predictor_id = predictors.create(
            self._session,
            self._blobs,
            profile_id=profile_id,
            device="host",
            supernet="load",
            data=b"a predictor",
            smallest={"predicted_ms": 1.0},
            largest={"predicted_ms": 90.0},
            interval={"p50": {"0.9": 0.1}, "p90": {"0.9": 0.2}},
            summary={"rows": 1},
            now=self._now,
        ).id

    def _model(self, number: int) -> Model:
        arch = self._archs[number % len(self._archs)]
        data = struct.pack("<q", number) + self._rng.randbytes(1000)
        source: ModelSource = "anchor" if number == 0 else "search"
        new = models.NewModel(
            models.store_bytes(self._blobs, data),
            source,
            self._manifest(arch),
            precision="float32",
            arch=arch,
        )
        return models.add(self._session, new, self._now)

    def _manifest(self, arch: Arch) -> dict[str, Any]:
        """As long as those of exported models."""
        return {
            "schema_version": 2,
            "arch": arch_object(arch),
            "arch_id": arch.id,
            "precision": "float32",
            "input": {"name": "image", "shape": [1, 224, 224, 3], "mean": [0.485, 0.456, 0.406], "range": [-2.2, 2.7]},
            "latency": [],
            "versions": {f"package-{n}": "1.2.3" for n in range(6)},
            "history": "x" * 600,
        }

    def _measured(self, model_id: str, agent: Agent) -> str:
        submissions.measure(self._session, model_id, "host", MeasureProtocol(), self._now)
        lease = leases.grant(self._session, agent, ["host"], self._now, 60.0)
        assert lease is not None
        report = Report(lease_id=lease.lease_id, attempt=lease.attempt, outcome="measured", session=measured())
        reports.accept(self._session, report, self._now)
        return lease.job_id

    def _search(self, model: Model) -> str:
        request = SearchRequest(device="host", budget=Budget(latency_ms=20.0), supernet="load")
        accepted = searches.create(self._session, request, self._now, 3, SERVICE, self._settings.supernets_folder)
        claimed = claims.claim_compute(self._session, "load-worker", (JobKind.SEARCH,), self._now)
        assert claimed is not None
        result = self._result(model).model_dump(mode="json")
        job_ends.finish(self._session, claimed.lease_id, claimed.attempt, result, self._now)
        return accepted.id

    def _result(self, model: Model) -> SearchResult:
        first = self._candidate(self._archs[0])
        found = SearchModel(**dict(first), model_id=model.id, size_bytes=model.size_bytes, download_url="/download")
        frontier = [self._candidate(self._archs[n % len(self._archs)]) for n in range(FRONTIER)]
        predictor = PredictorRef(id=self._predictor_id, device="host", version=1)
        return SearchResult(models=[found], frontier=frontier, predictor=predictor, supernet="load")

    def _candidate(self, arch: Arch) -> Candidate:
        ms = self._rng.uniform(1, 90)
        latency = LatencyAnswer(predicted_ms=ms, lower_ms=ms * 0.9, upper_ms=ms * 1.1, confidence=0.9)
        return Candidate(
            arch=self._described[arch.id],
            arch_id=arch.id,
            macs=self._rng.randrange(10**8),
            params=self._rng.randrange(10**7),
            accuracy=Accuracy(value=self._rng.uniform(0.6, 0.8), source="predicted"),
            latency={"host": latency},
        )


def describe(name: str, kind: DeviceKind = "phone") -> DeviceDescription:
    """A device as agents describe theirs."""
    same: dict[str, Any] = {"serial": "s", "model": "A processor", "soc": "a", "os_build": "o", "abi": "x86_64"}
    return DeviceDescription(name=name, kind=kind, runtime_version="2.3.0", bench_build="b", **same)


def measured(device: str = "host") -> MeasurementSession:
    """A calm session with an operator profile."""
    rng = random.Random(0)

    def run(ns: int) -> BenchRun:
        return BenchRun(samples_ns=[ns + rng.randrange(ns // 100) for _ in range(60)])

    kind: DeviceKind = "host" if device == "host" else "phone"
    return MeasurementSession(
        device=describe(device, kind),
        rounds=[Round(model=run(2_000_000), anchor=run(1_000_000)) for _ in range(5)],
        profile=[OpTime(node=n, tag="CONV_2D", count=30, total_us=60.0, avg_us=2.0) for n in range(OPERATORS)]
        if device == "host"
        else None,
    )


def make(home: Path, url: str | None, number: int) -> Filled:
    """A filled home folder."""
    return fill(Settings(home=home, database_url=url), number)

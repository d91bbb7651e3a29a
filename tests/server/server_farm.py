"""What the tests of the server work with: a real app on a real home folder, a clock moved by hand, a real .tflite."""

from __future__ import annotations

import struct
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import flatbuffers
import uvicorn
from ai_edge_litert import schema_py_generated as schema
from sqlmodel import Session, col, select

from server.api.routes.deps import State
from server.services import measurements, models, predictors, supernets
from server.store.blobs import Blobs
from server.store.db import Database
from server.store.tables import Attempt, Model

with warnings.catch_warnings():  # it prefers a client that is not out yet
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = [
    "START",
    "Clock",
    "Farm",
    "TestClient",
    "describe",
    "on_a_socket",
    "problem",
    "session_body",
    "tiny_tflite",
    "usable_rows",
]
PATIENCE_SECONDS = 30.0
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Time that stands still until it is moved."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def tiny_tflite(add: float = 1.0) -> bytes:
    """A whole .tflite of one operator: x + `add`, x float32 of shape (1, 4)."""
    model = schema.ModelT()
    model.version = 3
    model.description = b"tiny"
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    model.operatorCodes = [code]
    empty, constant = schema.BufferT(), schema.BufferT()
    constant.data = list(struct.pack("<4f", *[add] * 4))
    model.buffers = [empty, constant]
    graph = schema.SubGraphT()
    graph.tensors = []
    for name, buffer in (("x", 0), ("constant", 1), ("y", 0)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), [1, 4], schema.TensorType.FLOAT32, buffer
        graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def describe(name: str = "host", kind: str = "host") -> dict[str, Any]:
    """A device as an agent describes it."""
    return {
        "name": name,
        "kind": kind,
        "serial": f"serial-of-{name}",
        "model": "A processor",
        "soc": "A processor",
        "os_build": "Linux 6.1",
        "abi": "x86_64",
        "runtime_version": "2.3.0",
        "bench_build": "abc123",
        "properties": {"cores": "2"},
    }


def session_body(
    model_ms: float = 2.0, anchor_ms: float = 1.0, rounds: int = 5, device: str = "host", kind: str = "host"
) -> dict[str, Any]:
    """A calm measuring session, with a little spread, as an agent reports it."""

    def run(ms: float) -> dict[str, Any]:
        return {"samples_ns": [int(ms * 1e6 * (1 + 0.001 * i)) for i in range(-5, 6)], "init_ms": 1.0, "first_ms": 3.0}

    return {
        "device": describe(device, kind),
        "rounds": [{"model": run(model_ms), "anchor": run(anchor_ms)} for _ in range(rounds)],
        "profile": [{"node": 0, "tag": "ADD", "count": 30, "total_us": 60.0, "avg_us": 2.0}],
        "conditions": {"governor": "none"},
        "peak_rss_kb": 4096,
        "fully_accelerated": True,
        "emulated": kind == "emulated",
    }


@dataclass
class Farm:
    """The app under test and what tests do with it all the time."""

    client: TestClient
    clock: Clock
    home: Path
    state: State
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.state.database

    @property
    def blobs(self) -> Blobs:
        return self.state.blobs

    def call(self, method: str, path: str, role: str | None = "admin", **kwargs: Any) -> Any:  # noqa: ANN401
        """One request with a token of `role`; the answer of the client."""
        headers = dict(kwargs.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.secret(role)}"
        return self.client.request(method, path, headers=headers, **kwargs)

    def ok(self, method: str, path: str, role: str | None = "admin", **kwargs: Any) -> Any:  # noqa: ANN401
        """The JSON of a request that has to succeed."""
        answer = self.call(method, path, role, **kwargs)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def secret(self, role: str) -> str:
        if role == "admin":
            return (self.home / "admin.token").read_text().strip()
        if role not in self.secrets:
            body = {"name": f"a-{role}", "role": role.split("-", maxsplit=1)[0]}
            self.secrets[role] = self.ok("POST", "/tokens", json=body)["token"]
        return self.secrets[role]

    def agent(
        self,
        name: str = "beside-host",
        devices: tuple[str, ...] = ("host",),
        role: str = "agent",
        kinds: Mapping[str, str] | None = None,
    ) -> str:
        """Register an agent; its devices are of kind `host`, unless `kinds` has another for their name."""
        about = [describe(device, (kinds or {}).get(device, "host")) for device in devices]
        body = {"name": name, "version": "1", "devices": about}
        return str(self.ok("POST", "/agents/register", role, json=body)["agent_id"])

    def upload(self, content: bytes | None = None) -> str:
        return str(self.ok("POST", "/models", "user", content=content or tiny_tflite())["id"])

    def measure_job(self, device: str = "host", **more: Any) -> str:  # noqa: ANN401
        body = {"kind": "measure", "device": device, "model_id": self.upload(), **more}
        return str(self.ok("POST", "/jobs", "user", json=body)["id"])

    def lease(self, agent_id: str, *devices: str) -> dict[str, Any] | None:
        body = {"agent_id": agent_id, "devices": devices or ("host",)}
        answer = self.call("POST", "/leases", "agent", json=body)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.status_code == 200 else None

    def report(self, lease: dict[str, Any], session: dict[str, Any] | None = None, **other: Any) -> Any:  # noqa: ANN401
        body = {"lease_id": lease["lease_id"], "attempt": lease["attempt"]}
        body |= other or {"outcome": "measured", "session": session or session_body()}
        return self.call("POST", f"/leases/{lease['lease_id']}/report", "agent", json=body)

    def anchor(self) -> Model:
        with self.database.write() as session:
            file = models.store_bytes(self.blobs, tiny_tflite(7.0))
            return models.add(session, models.NewModel(file, "anchor", {}), self.clock())

    def supernet(self, name: str = "digits") -> str:
        """A supernet file that is known; what is in it does not matter to this package."""
        file = self.home / "supernets" / f"{name}.safetensors"
        header = b'{"__metadata__":{"space":"paper"}}'
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        with self.database.write() as session:
            supernets.register(session, name=name, file=file, now=self.clock(), space="paper", classes=10)
        return name

    def predictor(self, supernet: str = "digits", smallest_ms: float = 1.0, device: str = "host") -> str:
        """A predictor fitted on one measured session of `device`; its agent must be registered."""
        agent_id = self.agent(devices=(device,))
        self.anchor()
        self.measure_job(device)
        lease = self.lease(agent_id, device)
        assert lease is not None
        assert self.report(lease, session_body(device=device)).status_code == 200
        profile_id = self.ok("GET", f"/devices/{device}")["profile_id"]
        with self.database.write() as session:
            return predictors.create(
                session,
                self.blobs,
                profile_id=profile_id,
                device=device,
                supernet=supernet,
                data=b"a predictor",
                smallest={"predicted_ms": smallest_ms},
                largest={"predicted_ms": 9.0},
                interval={"p50": {"0.9": 0.1, "0.99": 0.3}, "p90": {"0.9": 0.2}},
                summary={"rows": 1},
                now=self.clock(),
            ).id

    def left_behind(self) -> list[str]:
        """Part files anywhere in the home folder."""
        return [str(path) for path in self.home.rglob("*part*")]

    def blob_count(self) -> int:
        return sum(1 for path in (self.home / "blobs").rglob("*") if path.is_file())


@contextmanager
def on_a_socket(farm: Farm) -> Iterator[str]:
    """The URL at which the farm's app also answers on a real socket, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(farm.client.app, port=0, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        assert time.monotonic() < deadline_s, "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE_SECONDS)


def problem(answer: Any, status: int, kind: str = "user") -> dict[str, Any]:  # noqa: ANN401
    """The problem document of an answer that has to be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status and document["kind"] == kind and document["detail"] and document["title"]
    return document


def attempts(session: Session, job_id: str) -> Sequence[Attempt]:
    """All tries of a job, in their order."""
    return session.exec(select(Attempt).where(Attempt.job_id == job_id).order_by(col(Attempt.number))).all()


def usable_rows(farm: Farm, profile_id: str) -> list[measurements.UsableSession]:
    with farm.database.read() as session:
        return measurements.usable(session, profile_id)

"""The agents' protocol on a real socket, without a database: a server whose answers tests choose."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel, ValidationError

from server.wire import (
    AgentRegister,
    AgentRegistered,
    BlobRef,
    Heartbeat,
    HeartbeatReply,
    JobKind,
    JobStatus,
    Lease,
    LeaseRenewal,
    LeaseRenewed,
    LeaseRequest,
    MeasureProtocol,
    Problem,
    Report,
    Reported,
)

TOKEN = "a-secret-of-the-agent"


@dataclass
class Job:
    """A measuring job of the fake server; `leases` are those it was given under."""

    job_id: str
    model: BlobRef
    anchor: BlobRef | None
    protocol: MeasureProtocol
    status: JobStatus = JobStatus.QUEUED
    leases: list[str] = field(default_factory=list)


class FakeServer:
    """Speaks the agents' protocol; refuses what the wire types refuse. Closing it refuses connections."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.token = TOKEN
        self.lease_seconds = 60.0
        self.renew_seconds: float | None = None
        self.wait_seconds: float | None = None
        self.idle_heartbeat_seconds: float | None = None
        self.agents: dict[str, AgentRegister] = {}
        self.jobs: dict[str, Job] = {}
        self.blobs: dict[str, bytes] = {}
        self.reports: list[Report] = []
        self.renewals: list[LeaseRenewal] = []
        self.beats: list[Heartbeat] = []
        self.calls: Counter[str] = Counter()
        self.accepted: dict[str, tuple[Report, Reported]] = {}
        self.gone: set[str] = set()  # leases that are answered 409
        self.answers: dict[str, tuple[int, bytes]] = {}  # path to an answer that is given in place of the right one
        self.stall_at: int | None = None  # downloads stop after that many bytes, until this is None again
        self._port = 0
        self._http: ThreadingHTTPServer | None = None
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        self._http = _Listener(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def blob(self, data: bytes) -> BlobRef:
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        return BlobRef(sha256=sha256, size_bytes=len(data), url=f"/blobs/{sha256}")

    def job(self, model: BlobRef, anchor: BlobRef | None = None, **protocol: Any) -> Job:  # noqa: ANN401
        values = {"rounds": 1, "runs": 5, "min_secs": 0.0, **protocol}
        with self.lock:
            job_id = f"job-{len(self.jobs) + 1}"
            job = self.jobs[job_id] = Job(job_id, model, anchor, MeasureProtocol.model_validate(values))
            self.changed.notify_all()
            return job

    def expire(self, job: Job) -> None:
        """What the real server does some time after an agent fell silent."""
        with self.lock:
            self.gone.update(job.leases)
            job.status = JobStatus.QUEUED

    def register(self, body: AgentRegister) -> AgentRegistered:
        agent_id = f"agent-{self.calls['/agents/register']}"
        self.agents[agent_id] = body
        for job in self.jobs.values():
            if job.status in (JobStatus.LEASED, JobStatus.RUNNING) and job.leases[-1] not in body.leases:
                # A report that waits in the agent's spool still counts, until another attempt begins.
                job.status = JobStatus.QUEUED
        return AgentRegistered(agent_id=agent_id, **self._intervals())

    def heartbeat(self, body: Heartbeat) -> HeartbeatReply | Problem:
        if body.agent_id not in self.agents:
            return _problem(404, "register first")
        if {beat.name for beat in body.devices} - {device.name for device in self.agents[body.agent_id].devices}:
            return _problem(404, "a device is not registered by this agent")
        self.beats.append(body)
        return HeartbeatReply(**self._intervals())

    def claim(self, body: LeaseRequest) -> Lease | Problem | None:
        if body.agent_id not in self.agents:
            return _problem(404, "register first")
        deadline_s = time.monotonic() + body.wait_seconds
        while time.monotonic() < deadline_s and all(job.status is not JobStatus.QUEUED for job in self.jobs.values()):
            self.changed.wait(deadline_s - time.monotonic())
        for job in self.jobs.values():
            if job.status is JobStatus.QUEUED:
                job.status = JobStatus.LEASED
                self.gone.update(job.leases)
                job.leases.append(f"{job.job_id}-lease-{len(job.leases) + 1}")
                return Lease(
                    lease_id=job.leases[-1],
                    attempt=len(job.leases),
                    job_id=job.job_id,
                    expires_at=datetime.now(UTC) + timedelta(seconds=self.lease_seconds),
                    kind=JobKind.MEASURE,
                    device=body.devices[0],
                    model=job.model,
                    anchor=job.anchor,
                    protocol=job.protocol,
                )
        return None

    def renew(self, lease_id: str, body: LeaseRenewal) -> LeaseRenewed | Problem:
        if lease_id in self.gone:
            return _problem(409, "the lease is no longer yours")
        if self._job_of(lease_id) is None:
            return _problem(404, "no such lease")
        self.renewals.append(body)
        expires_at = datetime.now(UTC) + timedelta(seconds=self.lease_seconds)
        return LeaseRenewed(lease_id=lease_id, attempt=body.attempt, expires_at=expires_at)

    def report(self, lease_id: str, body: Report) -> Reported | Problem:
        if lease_id in self.accepted and self.accepted[lease_id][0] == body:
            return self.accepted[lease_id][1]
        if lease_id in self.gone:
            return _problem(409, "the lease is no longer yours")
        job = self._job_of(lease_id)
        if job is None:
            return _problem(404, "no such lease")
        self.reports.append(body)
        self.gone.add(lease_id)
        if body.failure is None:
            job.status = JobStatus.SUCCEEDED
        else:
            final = body.failure.kind == "user" or len(job.leases) >= 3
            job.status = JobStatus.FAILED if final else JobStatus.QUEUED
        reported = Reported(job_id=job.job_id, status=job.status, measurement_id=None)
        self.accepted[lease_id] = (body, reported)
        return reported

    def _job_of(self, lease_id: str) -> Job | None:
        return next((job for job in self.jobs.values() if lease_id in job.leases), None)

    def _intervals(self) -> dict[str, Any]:
        return {
            "heartbeat_seconds": 0.1,
            "poll_seconds": 0.05,
            "lease_seconds": self.lease_seconds,
            "renew_seconds": self.renew_seconds,
            "wait_seconds": self.wait_seconds,
            "idle_heartbeat_seconds": self.idle_heartbeat_seconds,
            "server_time": datetime.now(UTC),
        }


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False


def _problem(status: int, detail: str) -> Problem:
    return Problem(title="problem", status=status, kind="user", detail=detail)


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self._stopped():
                return
            data = server.blobs.get(self.path.removeprefix("/blobs/"))
            if data is None:
                self._answer(_problem(404, "no such file"))
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            cut = len(data) if server.stall_at is None else server.stall_at
            self.wfile.write(data[:cut])
            while server.stall_at is not None:
                time.sleep(0.02)
            self.wfile.write(data[cut:])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self._stopped():
                return
            try:
                with server.lock:
                    self._answer(self._call(body))
            except ValidationError as error:
                self._answer(_problem(422, str(error)))

        def _call(self, body: bytes) -> BaseModel | None:
            match self.path.strip("/").split("/"):
                case ["agents", "register"]:
                    return server.register(AgentRegister.model_validate_json(body))
                case ["agents", "heartbeat"]:
                    return server.heartbeat(Heartbeat.model_validate_json(body))
                case ["leases"]:
                    return server.claim(LeaseRequest.model_validate_json(body))
                case ["leases", lease_id, "renew"]:
                    return server.renew(lease_id, LeaseRenewal.model_validate_json(body))
                case ["leases", lease_id, "report"]:
                    return server.report(lease_id, Report.model_validate_json(body))
            return _problem(404, f"no route {self.path}")

        def _stopped(self) -> bool:
            """Counts the call; True when it was answered already."""
            server.calls[self.path] += 1
            if self.headers["Authorization"] != f"Bearer {server.token}":
                self._answer(_problem(401, "no or wrong token"))
                return True
            for path, (status, data) in server.answers.items():
                if self.path.endswith(path):
                    self._send(status, data)
                    return True
            return False

        def _answer(self, answer: BaseModel | None) -> None:
            if answer is None:
                self._send(204, b"")
            else:
                status = answer.status if isinstance(answer, Problem) else 200
                self._send(status, answer.model_dump_json().encode())

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler

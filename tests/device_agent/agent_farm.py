"""What the agent's tests work with: a server on a real socket, a benchmark that the model file controls."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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
PATIENCE_SECONDS = 30.0

# A benchmark with android_bench's flags, result and exit codes; the "model" is JSON that sets its behaviour.
BENCH = """#!{python} -SE
import json, os, sys, time
arguments = sys.argv[1:]
profile = "--profile" in arguments
arguments = [argument for argument in arguments if argument != "--profile"]
flags = dict(zip(arguments[::2], arguments[1::2]))
with open(flags["--model"]) as file:
    model = json.load(file)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "journal"), "a") as journal:
    journal.write(json.dumps(dict(label=model["label"], profile=profile, flags=flags, pid=os.getpid())) + "\\n")
while model.get("until") and not os.path.exists(model["until"]):
    time.sleep(0.01)
sys.stderr.write(model.get("stderr", ""))
if model.get("signal"):
    os.kill(os.getpid(), model["signal"])
if model.get("exit"):
    sys.exit(model["exit"])
ops = [dict(node=i, tag=tag, count=20, total_us=20.0 * (i + 1)) for i, tag in enumerate(["CONV", "ADD"])]
result = dict(
    schema=1, samples_ns=[model["ns"] + i for i in range(int(flags["--runs"]))], init_us=1500.0, first_us=3000.0,
    threads=dict(asked=1, got=1), affinity=dict(asked=flags.get("--cpu-mask"), got="1"), fully_accelerated=True,
    peak_rss_kb=model["ns"], involuntary_switches=0, something_new=[1],
    profile=dict(runs=10, ops=ops) if profile else None,
)
result.update(model.get("result", {{}}))
if not model.get("no_result"):
    with open(flags["--out"], "w") as out:
        json.dump(result, out)
"""


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Fails when the condition does not come true in time; the time is no promise, only an end."""
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline_s, f"still waiting for: {what}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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
        self.token = TOKEN
        self.lease_seconds = 60.0
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


@dataclass
class Farm:
    """A server, a home folder and a benchmark; agents are real processes."""

    server: FakeServer
    folder: Path
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def program(self) -> Path:
        return self.folder / "bench" / "fake_bench"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def model(self, label: str = "model", ns: int = 2000, **behaviour: Any) -> BlobRef:  # noqa: ANN401
        return self.server.blob(json.dumps({"label": label, "ns": ns, **behaviour}).encode())

    def bench_calls(self) -> list[dict[str, Any]]:
        """How the benchmark was called, oldest first."""
        journal = self.program.with_name("journal")
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def environment(self, **more: str) -> dict[str, str]:
        values = {"BENCH": str(self.program), "LIBRARY": str(self.token_file), "MAX_BACKOFF_SECONDS": "0.2"}
        values |= {"BENCH_GRACE_SECONDS": "20", **more}
        return os.environ | {f"ELASTICVIT_AGENT_{name}": value for name, value in values.items()}

    def command(self, *more: str) -> list[str]:
        command = [sys.executable, "-m", "device_agent.cli", "run", "--server", self.server.url, "--host"]
        return [*command, "--token-file", str(self.token_file), "--home", str(self.home), *more]

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        """An agent in the background; its log is `agent.log` in the folder."""
        with (self.folder / "agent.log").open("a") as log:
            agent = subprocess.Popen(self.command(*more), env=self.environment(**environment), stderr=log, text=True)
        self.agents.append(agent)
        return agent

    def run(self, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """An agent that is expected to end by itself."""
        return subprocess.run(
            self.command(*more),
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def wait_for_report(self, count: int = 1) -> Report:
        wait_until(f"{count} reports", lambda: len(self.server.reports) >= count)
        return self.server.reports[count - 1]

    def files(self, name: str) -> list[str]:
        """What lies in a folder of the agent's home."""
        return sorted(path.name for path in (self.home / name).iterdir())

    def end(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        for call in self.bench_calls():
            with suppress(OSError):  # it may have ended; the path excludes a reused pid
                if os.fsencode(self.program) in Path(f"/proc/{call['pid']}/cmdline").read_bytes():
                    os.kill(call["pid"], signal.SIGKILL)
        self.server.stall_at = None
        self.server.close()


def make_farm(folder: Path) -> Farm:
    farm = Farm(FakeServer(), folder)
    farm.token_file.write_text(TOKEN + "\n")
    farm.program.parent.mkdir()
    farm.program.write_text(BENCH.format(python=sys.executable))
    farm.program.chmod(0o755)
    return farm

"""Whole services for tests: real processes on real home folders and free ports, looked at from outside."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.soak.processes import started_for

PATIENCE_SECONDS = 90.0
FINISHED = ("succeeded", "failed", "cancelled")
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
# With the right to it, a service runs at this priority: what it measures does not depend on how busy the machine is.
PRIORITY = -15
# One client, since each loads the machine's certificates, and no connection is kept: services are killed.
HTTP = httpx.Client(timeout=30, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0))
SHORT = {"rounds": 2, "runs": 5, "min_secs": 0.0}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(what: str, true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.1)


def environment(home: Path, port: int, **more: str) -> dict[str, str]:
    """The environment of a child: of ELASTICVIT_ variables only these."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ELASTICVIT_")}
    own |= {"ELASTICVIT_HOME": str(home), "ELASTICVIT_PORT": str(port), "ELASTICVIT_HOST": "127.0.0.1"}
    own |= {"ELASTICVIT_SUPERNET": "digits", "ELASTICVIT_POLL_SECONDS": "0.2"}
    own |= {"http_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}  # not for this machine
    return own | {f"ELASTICVIT_{name}": value for name, value in more.items()}


def elasticvit(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", *arguments]


def agent_command(home: Path, port: int) -> list[str]:
    own = home / "agents" / "host"
    command = [sys.executable, "-m", "device_agent.cli", "run", "--host", "--name", "host", "--home", str(own)]
    return [*command, "--server", f"http://127.0.0.1:{port}", "--token-file", str(own / "agent.token")]


def without_roots_right_to_write() -> None:
    """Before exec: the permissions of files and folders hold for root, too."""
    if os.geteuid() == 0:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "a capability cannot be dropped")


def processes(home: Path) -> dict[int, str]:
    """Command lines of all living processes that were started for a home, by pid; benchmarks included."""
    return started_for(home)


def kill_all(home: Path) -> None:
    while pids := processes(home):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def left_behind(home: Path) -> list[str]:
    """Part files, work folders and undelivered reports. A running service has some of them for a moment."""
    parts = [path for path in home.rglob("*") if ".part" in path.name]
    own = home / "agents" / "host"
    return sorted(str(path) for path in [*parts, *(own / "work").glob("*"), *(own / "spool").glob("*")])


def wait_until_nothing_left(home: Path) -> None:
    """Until a running service has delivered its reports and removed its temporary files.

    The server answers a report before its agent removes it, and a cancelled benchmark ends before its report is
    written. What a home holds at the first look says nothing, therefore.
    """
    try:
        wait_until("clean home", lambda: left_behind(home) == [])
    except AssertionError as error:
        raise AssertionError(f"{error}; left: {left_behind(home)}") from None


def rows(home: Path, sql: str, *values: str) -> list[Any]:
    """What the database of a home holds; what the statement changes is kept."""
    with closing(sqlite3.connect(home / "farm.db", timeout=10)) as database, database:
        return database.execute(sql, values).fetchall()


def is_locked(home: Path) -> bool:
    with (home / "run.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def check_nothing_left(home: Path) -> None:
    """A stopped service leaves no process, part file, lock or lease, and a whole database."""
    assert processes(home) == {}
    assert left_behind(home) == []
    assert not is_locked(home)
    assert rows(home, "PRAGMA integrity_check") == [("ok",)]
    parked = "status = 'running' AND wait_until IS NOT NULL"
    held = f"SELECT id, status FROM job WHERE status IN ('leased', 'running') AND NOT ({parked})"
    assert rows(home, held) == []
    assert rows(home, "SELECT id, job_id, owner FROM attempt WHERE ended_at IS NULL") == []


@dataclass
class Service:
    """A home with the processes that serve it; `main` is the first of them, and leads their group."""

    home: Path
    port: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def main(self) -> subprocess.Popen[bytes]:
        return self.started[0]

    @property
    def log(self) -> Path:
        return self.home.with_name(f"{self.home.name}.log")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A process in a group of its own; its words go to a file beside the home."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment(self.home, self.port, **self.more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, PRIORITY)
            # Linux shares the CPU between sessions first (autogroup), then by priority within one.
            Path(f"/proc/{process.pid}/autogroup").write_text(str(PRIORITY))
        self.started.append(process)
        return process

    def log_tails(self) -> str:
        """The ends of all logs, for a failed assertion."""
        logs = [self.log, *sorted((self.home / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    def call(self, method: str, path: str, **arguments: Any) -> httpx.Response:  # noqa: ANN401
        headers = {"Authorization": f"Bearer {(self.home / 'admin.token').read_text().strip()}"}
        return HTTP.request(method, self.url + path, headers=headers, **arguments)

    def ok(self, method: str, path: str, **arguments: Any) -> Any:  # noqa: ANN401
        """The JSON of a request that has to succeed."""
        answer = self.call(method, path, **arguments)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def ask(self, budget_ms: float, **more: Any) -> str:  # noqa: ANN401
        """Where the answer to a search will be."""
        body = {"device": "host", "budget": {"latency_ms": budget_ms}, **more}
        return str(self.ok("POST", "/search", json=body)["url"])

    def search(self, budget_ms: float, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """The result of a search that has to succeed."""
        view = self.wait(self.ask(budget_ms, **more))
        assert view["status"] == "succeeded" and view["error"] is None, f"{view['error']}\n{self.log_tails()}"
        result: dict[str, Any] = view["result"]
        return result

    def measure(self, model_id: str, **more: Any) -> str:  # noqa: ANN401
        """Where a measuring job will be."""
        body = {"kind": "measure", "device": "host", "model_id": model_id, "protocol": SHORT | more}
        return str(self.ok("POST", "/jobs", json=body)["url"])

    def until(
        self, url: str, true: Callable[[dict[str, Any]], bool], what: str, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """The resource at `url` as soon as it is as wanted; retries while the server is away."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            with suppress(httpx.TransportError):
                seen.update(self.ok("GET", url))
            return bool(seen) and true(seen)

        try:
            wait_until(what, look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {url}: {json.dumps(seen)[:2000]}\n{self.log_tails()}") from None
        return seen

    def wait(self, url: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        return self.until(url, lambda view: view["status"] in FINISHED, "end", seconds)

    def until_measuring(self, search_url: str) -> dict[str, Any]:
        """The measuring job of a search, as soon as its device has begun."""
        self.until(search_url, lambda view: "measuring" in ((view["progress"] or {}).get("stage", "")), "measuring")
        child = self.children(search_url)[-1]
        return self.until(child["url"], lambda job: job["status"] == "running", "session")

    def children(self, search_url: str) -> list[dict[str, Any]]:
        """The jobs that a search queued, oldest first."""
        parent = rows(self.home, "SELECT job_id FROM search WHERE id = ?", search_url.rsplit("/", 1)[1])[0][0]
        items: list[dict[str, Any]] = self.ok("GET", "/jobs", params={"parent_id": parent})["items"]
        return items[::-1]

    def wait_idle(self) -> None:
        """Until this machine waits for work."""

        def idle() -> bool:
            with suppress(httpx.TransportError):
                answer = self.call("GET", "/devices/host")
                return answer.status_code == 200 and answer.json()["state"] == "idle"
            return False

        wait_until("idle device", idle)

    def wait_serving(self) -> None:
        def serving() -> bool:
            with suppress(httpx.TransportError):
                return HTTP.get(f"{self.url}/healthz", timeout=10).status_code == 200
            return False

        wait_until("server", serving)

    def wait_ready(self, seconds: float = PATIENCE_SECONDS) -> None:
        def ready() -> bool:
            assert self.main.poll() is None, f"ended with status {self.main.returncode}\n{self.log_tails()}"
            try:
                return HTTP.get(f"{self.url}/readyz", timeout=10).status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_until("readiness", ready, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tails()}") from None

    def pid(self, process: str) -> int:
        """Of the supervised process whose command line holds this: "serve", "worker", "device_agent"."""
        return next(pid for pid, command in processes(self.home).items() if f"{process} " in f"{command} ")

    def kill(self, process: str) -> None:
        os.kill(self.pid(process), signal.SIGKILL)

    def stop(self, seconds: float = 30.0) -> None:
        """SIGTERM to every group that was started; all have to end well."""
        for process in reversed(self.started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.started:
            # uvicorn ends its work and then itself by the signal that it was sent.
            assert process.wait(seconds) in (0, -signal.SIGTERM), self.log_tails()

    def end(self) -> None:
        """No process is left, whatever happened."""
        kill_all(self.home)
        for process in self.started:
            process.wait(10)

    def reachable_ms(self) -> tuple[float, float]:
        """The least and the greatest upper bound at confidence 0.9."""
        newest = self.ok("GET", "/predictors", params={"device": "host", "max_results": 1})["items"][0]
        return newest["smallest"]["upper_ms"], newest["largest"]["upper_ms"]

    def budget_ms(self, fraction: float) -> float:
        low_ms, high_ms = self.reachable_ms()
        return low_ms + fraction * (high_ms - low_ms)


def up(home: Path, port: int | None = None, **more: str) -> Service:
    """`elasticvit up` on a home."""
    service = Service(home, port or free_port(), more=more)
    service.start(*elasticvit("up"))
    return service


def finished(command: list[str], home: Path, port: int, **arguments: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    """A command that is expected to end by itself."""
    return subprocess.run(
        command,
        env=environment(home, port),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        **arguments,
    )

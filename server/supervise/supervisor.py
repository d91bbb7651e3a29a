"""`elasticvit up`: server, worker and this machine's agent as one service in the foreground.

The home folder is locked and the port tested first, so that a second service ends at once. Then the server starts, and
/readyz says what it waits for; the worker starts while the default supernet is prepared; the agent starts; a
calibration of `host` is queued if there is none. A child that ends by itself is started again, later each time that it
ends soon; only a server that keeps ending ends the service. SIGTERM and SIGINT end everything.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import httpx

from elasticvit.progress import Say
from server.errors import InfraError
from server.settings import Settings
from server.supervise.child import Backoff, Child
from server.supervise.lock import HomeLock, check_port
from server.wire import HOST
from server.wire.connect import http_client
from server.wire.process import exit_text

# Together less than the 20 s after which service managers kill.
STOP_SECONDS, SERVER_STOP_SECONDS = 10.0, 7.0
# Without the server nothing works: it is started again at once, and given up when it keeps ending.
BACKOFF = Backoff()
SERVER_BACKOFF = Backoff(first_seconds=0.25, most_seconds=10.0)


class Supervisor:
    """One service: its children, and whether it is to stop."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings = settings
        self.say = say
        self.stop = False
        self.children: list[Child] = []
        home = settings.home.resolve()
        self.env = os.environ | {"ELASTICVIT_HOME": str(home), "ELASTICVIT_EXPECT_HOST": "true"}
        self.env |= {"ELASTICVIT_HOST": settings.host, "ELASTICVIT_PORT": str(settings.port)}
        self.url = settings.server_url
        self.http = http_client(self.url, timeout_seconds=5.0)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit status. Raises Taken, InfraError."""
        lock = HomeLock.acquire(self.settings.home, self.settings.port)
        try:
            check_port(self.settings.host, self.settings.port)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            return self._run()
        finally:
            self._stop_children()
            self.http.close()
            lock.release()

    def _run(self) -> int:
        self._start("server", "serve", backoff=SERVER_BACKOFF, fatal=True)
        self.say(f"starting the server on {self.url}")
        self._wait_for_server(seconds=60)
        self._start("worker", "worker")
        if not self._prepare():
            return 0 if self.stop else 1
        self._start_agent()
        self.say("measuring this machine as device 'host', so that searches can promise latencies")
        self._watch()
        return 0

    def _prepare(self) -> bool:
        """In a separate process, on this terminal: build the benchmark, and prepare and register the default supernet.

        That one is copied if it ships with this package; `digits` is trained.
        """
        process = subprocess.Popen([sys.executable, "-m", "server.cli", "prepare", "--exit-with-parent"], env=self.env)
        try:
            while process.poll() is None and not self.stop:
                self._restart_dead()
                time.sleep(0.2)
        finally:
            _end([process], STOP_SECONDS)
        if process.returncode and not self.stop:
            self.say(f"preparing failed with {exit_text(process.returncode)}; its messages are above")
        return process.returncode == 0

    def _watch(self) -> None:
        printed = ""
        while not self.stop:
            self._restart_dead()
            state = self._waiting_for()
            if state is not None and state != printed:
                self.say(state or f"ready: {self.url}, token in {self.settings.admin_token_file}")
                printed = state
            time.sleep(0.5)

    def _waiting_for(self) -> str | None:
        """What the service waits for, as text; empty when it is ready, None if the server does not answer."""
        answer = self._get("/readyz")
        try:
            missing = answer.json()["waiting_for"] if answer is not None else None
        except (ValueError, KeyError, TypeError):
            missing = None
        if missing is None:
            return None
        if missing in (["host_predictor"], ["host_idle", "host_predictor"]):
            return self._calibration() or "waiting for the first measurements"
        return f"waiting for: {', '.join(missing)}" if missing else ""

    def _calibration(self) -> str | None:
        """How far the calibration of this machine is, or why it failed."""
        try:
            token = self.settings.admin_token_file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
        answer = self._get("/jobs?kind=calibrate&max_results=1", {"Authorization": f"Bearer {token}"})
        if answer is None or answer.is_error or not answer.json()["items"]:
            return None
        job = answer.json()["items"][0]
        if job["error"]:
            return f"the calibration failed: {job['error']['detail']}"
        progress = job["progress"]
        if not progress:
            return None
        counted = f" {progress['done']}/{progress['total']}" if progress["total"] else ""
        return f"calibrating: {progress['stage']}{counted}"

    def _get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response | None:
        try:
            return self.http.get(path, headers=headers)
        except httpx.TransportError:
            return None

    def _start(self, name: str, command: str, backoff: Backoff = BACKOFF, fatal: bool = False) -> None:
        log = self._log(name)
        env = {**self.env, "ELASTICVIT_LOG_FILE": str(log)}
        arguments = [sys.executable, "-m", "server.cli", command, "--exit-with-parent"]
        self._keep(Child(name, arguments, log, env, backoff, fatal))

    def _start_agent(self) -> None:
        home, log = self.settings.home.resolve() / "agents" / HOST, self._log("agent")
        command = [sys.executable, "-m", "device_agent.cli", "run", "--host", "--name", HOST, "--exit-with-parent"]
        command += ["--server", self.url, "--token-file", str(home / "agent.token"), "--home", str(home)]
        self._keep(Child("agent", command, log, {**self.env, "ELASTICVIT_AGENT_LOG_FILE": str(log)}))

    def _log(self, name: str) -> Path:
        return self.settings.home.resolve() / "logs" / f"{name}.log"

    def _keep(self, child: Child) -> None:
        self.children.append(child)
        child.start(time.monotonic())

    def _restart_dead(self) -> None:
        """Raises InfraError when the server keeps ending."""
        for child in self.children:
            if child.running or self.stop:
                continue
            now_s = time.monotonic()
            seconds = child.ended(now_s)
            if child.failing:
                raise InfraError(
                    f"the {child.name} keeps ending ({child.how_it_ended()}): {child.last_line()}; read {child.log}"
                )
            if seconds is not None:
                self.say(f"the {child.name} ended with {child.how_it_ended()}; starting it again in {seconds:g} s")
            if child.is_due(now_s):
                child.start(now_s)

    def _wait_for_server(self, seconds: float) -> None:
        """Wait until it answers. One that ends instead is not started again: its last line says why."""
        server = self.children[0]
        deadline = time.monotonic() + seconds
        while self._get("/healthz") is None and not self.stop:
            if time.monotonic() > deadline:
                raise InfraError(f"the server did not start within {seconds:g} s: read {server.log}")
            if not server.running and not self.stop:
                raise InfraError(f"the server does not start: {server.last_line()}")
            time.sleep(0.2)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # A plain flag: an Event takes a lock, which the thread that this interrupts may hold.
        self.stop = True

    def _stop_children(self) -> None:
        # The server last, so that the agent can still give its lease back.
        processes = [child.process for child in self.children if child.process is not None]
        _end(processes[1:], STOP_SECONDS)
        _end(processes[:1], SERVER_STOP_SECONDS)


def _end(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Send SIGTERM to processes, and kill those that still run after some seconds."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

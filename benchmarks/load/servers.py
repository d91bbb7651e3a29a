"""The two servers as processes, and what they use: memory, descriptors, processor time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS, STOP_SECONDS = 120.0, 20.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of a server with all its processes."""

    rss_mb: float
    descriptors: int
    cpu_seconds: float


@dataclass(frozen=True)
class Served:
    """A running server."""

    name: str
    port: int
    pid: int

    def usage(self) -> Usage:
        pids = [self.pid, *_descendants(self.pid)]
        stats = [_stat(pid) for pid in pids]
        descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        rss = sum(int(stat[21]) for stat in stats) * PAGE_BYTES
        return Usage(rss / 1e6, descriptors, sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS)


@contextmanager
def bare(url: str, port: int, workers: int) -> Iterator[Served]:
    """The bare app under uvicorn, with the settings of `elasticvit serve`."""
    command = ["uvicorn", "benchmarks.load.bare:create", "--factory", "--port", str(port), "--log-level", "warning"]
    command += ["--no-access-log", "--no-server-header", "--timeout-graceful-shutdown", "5", "--workers", str(workers)]
    with _running("bare", command, port, {"ELASTICVIT_DATABASE_URL": url}) as served:
        yield served


@contextmanager
def service(home: Path, url: str, port: int, workers: int) -> Iterator[Served]:
    """`elasticvit serve`."""
    command = ["server.cli", "serve", "--workers", str(workers)]
    environment = {"ELASTICVIT_HOME": str(home), "ELASTICVIT_DATABASE_URL": url, "ELASTICVIT_PORT": str(port)}
    with _running("service", command, port, environment) as served:
        yield served


@contextmanager
def compute_workers(home: Path, url: str, number: int) -> Iterator[None]:
    """`elasticvit worker`, several times; they find nothing to compute, but look for it."""
    environment = os.environ | {"ELASTICVIT_HOME": str(home), "ELASTICVIT_DATABASE_URL": url}
    command = [sys.executable, "-m", "server.cli", "worker"]
    started = [_start(command, environment) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            _end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(name: str, command: Sequence[str], port: int, environment: dict[str, str]) -> Iterator[Served]:
    process = _start([sys.executable, "-m", *command], os.environ | environment)
    try:
        _wait(process, port)
        yield Served(name, port, process.pid)
    finally:
        _end(process)


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not answer within {START_SECONDS:g} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _descendants(pid: int) -> list[int]:
    children = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [found for child in children for found in (child, *_descendants(child))]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the process's name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

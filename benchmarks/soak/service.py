"""The service under test: its processes, by the home folder in their environment, and what they take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.processes import started_for

KINDS: Mapping[str, str] = {
    "server": "server.cli serve",
    "worker": "server.cli worker",
    "agent": "device_agent.cli run",
    "exporter": "exporting.child",
    "benchmark": "android_bench",
}
"""What can be killed, with a part of its command line."""


@dataclass(frozen=True)
class Usage:
    """What a process takes."""

    memory_mb: float
    descriptors: int


@dataclass
class Service:
    """`elasticvit up` on `home` and `port`; `env` holds more variables, such as the database's URL."""

    home: Path
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    _main: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.home.with_name(f"{self.home.name}.log")

    def start(self) -> None:
        """Start it; does not wait until it is ready."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("ELASTICVIT_")}
        own |= {"ELASTICVIT_HOME": str(self.home), "ELASTICVIT_PORT": str(self.port), **self.env}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "server.cli", "up"]
            self._main = subprocess.Popen(
                command, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self._main is not None and self._main.poll() is None

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, as a service manager sends it; the exit status. Raises TimeoutExpired."""
        assert self._main is not None
        self._main.send_signal(signal.SIGTERM)
        return self._main.wait(seconds)

    def processes(self) -> dict[int, str]:
        """Command lines of the living processes that were started for this home, by pid."""
        return started_for(self.home)

    def pids(self, kind: str) -> list[int]:
        """Of the processes of one of `KINDS`, oldest first."""
        return sorted(pid for pid, command in self.processes().items() if KINDS[kind] in command)

    def kill(self, kind: str) -> bool:
        """SIGKILL to one process of a kind; False if none is running now."""
        for pid in self.pids(kind)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def kill_all(self) -> None:
        """SIGKILL to every process, until none is left."""
        while pids := self.processes():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        if self._main is not None:
            self._main.wait()

    def usage(self) -> dict[str, Usage]:
        """By kind; of several processes of a kind, the sum."""
        return {kind: _sum([_usage(pid) for pid in self.pids(kind)]) for kind in KINDS}

    def disk_mb(self) -> dict[str, float]:
        """The home folder: the stored files, the agents' caches, which are bounded, and all that remains."""
        blobs, caches = _size_mb(self.home / "blobs"), _size_mb(self.home / "agents")
        return {"blobs": blobs, "caches": caches, "rest": _size_mb(self.home) - blobs - caches}


def _size_mb(folder: Path) -> float:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    return size / 1e6


def _usage(pid: int) -> Usage:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return Usage(0.0, 0)
    kilobytes = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), "0")
    return Usage(int(kilobytes) / 1e3, descriptors)


def _sum(parts: list[Usage]) -> Usage:
    return Usage(sum(part.memory_mb for part in parts), sum(part.descriptors for part in parts))

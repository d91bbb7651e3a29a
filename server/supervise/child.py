"""A process that is kept running: started again when it ends, later each time that it ends soon."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from server.wire.process import TRY_AGAIN, exit_text

# A process that ran for this long resets the count of its failures.
CALM_SECONDS = 60.0
MAX_FAILURES = 5
TAIL_BYTES = 65_536


@dataclass(frozen=True)
class Backoff:
    """Seconds until the next start: doubling with each failure in a row."""

    first_seconds: float = 1.0
    most_seconds: float = 60.0

    def after(self, failures: int) -> float:
        return float(min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30)))


@dataclass
class Child:
    """One process at a time under a name. What it writes before it opens `log` itself goes there, too.

    With `fatal`, `failing` becomes true when it keeps ending within a minute for a reason of its own.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str]
    backoff: Backoff = field(default_factory=Backoff)
    fatal: bool = False
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    start_again_s: float | None = None
    failures: int = 0
    _own_failures: int = 0

    def start(self, now_s: float) -> None:
        """Times are those of the monotonic clock. A start that the system refuses counts as an end."""
        self.started_s, self.start_again_s, self.process = now_s, None, None
        log = _append(self.log)
        try:
            # In a process group of its own it is not interrupted by Ctrl-C; the supervisor ends it, in order.
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log or subprocess.DEVNULL,
                stderr=log or subprocess.DEVNULL,
                env=dict(self.env),
                process_group=0,
            )
        except OSError:
            return
        finally:
            if log is not None:
                log.close()

    def ended(self, now_s: float) -> float | None:
        """Call when it does not run. The seconds until its next start, once for each end; None after the first call."""
        if self.start_again_s is not None:
            return None
        if now_s - self.started_s >= CALM_SECONDS:
            self.failures = self._own_failures = 0
        self.failures += 1
        if self.process is None or self.process.returncode != TRY_AGAIN:
            self._own_failures += 1
        seconds = self.backoff.after(self.failures)
        self.start_again_s = now_s + seconds
        return seconds

    def is_due(self, now_s: float) -> bool:
        return self.start_again_s is not None and now_s >= self.start_again_s

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def failing(self) -> bool:
        return self.fatal and self._own_failures > MAX_FAILURES

    def how_it_ended(self) -> str:
        return exit_text(self.process.returncode) if self.process is not None else "no process: it cannot be started"

    def last_line(self) -> str:
        """The last line of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].removeprefix("elasticvit: ")[:500] if lines else "no message"


def _append(log: Path) -> BinaryIO | None:
    """None where the disk refuses: a process without a log is better than none."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    return None

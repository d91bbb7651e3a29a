"""Whether the threads of a process do their work: a dead or hung one ends the process, which is then started again.

A thread that works for ever has a pulse and says by when it will be heard of again. `Watchdog` looks at the pulses. A
process of which one thread is gone looks healthy from outside and does only half of its work; one that ends is seen.
For the service and for agents. All times are of the monotonic clock, so that a clock that is set changes nothing.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import structlog

from server.wire.process import PART_FAILED

log = structlog.get_logger()
LOOK_SECONDS = 1.0
# A longer gap between two looks means that the process was stopped or the machine slept: no thread is late then.
PAUSE_SECONDS = 5.0
FIRST_SECONDS = 300.0


@dataclass
class Pulse:
    """Of one thread or task. Use as a context manager around its work: an exception that leaves it is its death."""

    name: str
    due_s: float
    why: str | None = field(default=None, init=False)
    over: bool = field(default=False, init=False)

    def within(self, seconds: float) -> None:
        """It is alive, and will be heard of again within this time, at most."""
        self.due_s = time.monotonic() + seconds

    def __enter__(self) -> Pulse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.over = True
        else:
            self.why = f"died of {type(error).__name__}: {error}"

    def wrong(self, now_s: float) -> str | None:
        """What is wrong with it, None while nothing is."""
        if self.over:
            return None
        if self.why is not None:
            return f"{self.name} {self.why}"
        late_s = now_s - self.due_s
        return f"{self.name} is {late_s:.0f} s late" if late_s > 0 else None


class Liveness:
    """The pulses of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pulses: list[Pulse] = []

    def pulse(self, name: str, within_seconds: float = FIRST_SECONDS) -> Pulse:
        """A new pulse, first due within this time."""
        pulse = Pulse(name, time.monotonic() + within_seconds)
        with self._lock:
            self._pulses = [*(other for other in self._pulses if not other.over), pulse]
        return pulse

    def thread(self, name: str, work: Callable[[Pulse], object]) -> threading.Thread:
        """A thread with a pulse, not started yet. It ends the process if `work` raises, not if it returns."""

        def run() -> None:
            try:
                with pulse:
                    work(pulse)
            except Exception:
                log.exception("a part of this process died", part=name)

        pulse = self.pulse(name)
        return threading.Thread(target=run, name=name, daemon=True)

    def wrong(self) -> list[str]:
        """What is wrong, one sentence for each dead or late pulse."""
        now_s = time.monotonic()
        return [wrong for pulse in list(self._pulses) if (wrong := pulse.wrong(now_s)) is not None]

    def add_seconds(self, seconds: float) -> None:
        """Nobody could be heard of for this time."""
        for pulse in list(self._pulses):
            pulse.due_s += seconds


class Watchdog:
    """A thread that ends the process when something is wrong with a pulse, from `start` until `stop`.

    While all is well it touches `alive_file` every second, from which the health check of a container sees it.
    """

    def __init__(
        self,
        liveness: Liveness,
        end: Callable[[], object] = lambda: os._exit(PART_FAILED),
        alive_file: Path | None = None,
    ) -> None:
        self._liveness = liveness
        self._alive_file = alive_file
        self._end = end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        looked_s = time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            now_s = time.monotonic()
            if now_s - looked_s > PAUSE_SECONDS:
                self._liveness.add_seconds(now_s - looked_s)
            looked_s = now_s
            if wrong := self._liveness.wrong():
                log.error("this process ends, to be started again, because a part of it is dead or hung", parts=wrong)
                with suppress(Exception):  # where each thread is; a stderr that is closed must not keep it alive
                    faulthandler.dump_traceback(file=2, all_threads=True)
                self._end()
                return
            if self._alive_file is not None:
                with suppress(OSError):  # then the health check fails, and this process works on
                    self._alive_file.touch()

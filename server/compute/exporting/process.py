"""One exporting process, seen from its parent: started, given orders within limits, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from server.compute.exporting.order import Order, Result, Watch
from server.compute.exporting.remote_errors import RemoteError, restored
from server.errors import ExportCrashed
from server.wire.process import exit_text

LOOK_SECONDS = 0.05
CHECK_SECONDS = 0.25
LOG_BYTES = 8_000
TIMEOUT_SAYS = "raise ELASTICVIT_EXPORT_TIMEOUT_SECONDS if that is too little for this machine"
MEMORY_SAYS = "raise ELASTICVIT_EXPORT_MEMORY_MB if the machine has more, or ask for a smaller network"


class ExporterKilled(ExportCrashed):
    """A signal ended the process, and none of our limits did: the same work may succeed in another process."""


@dataclass(frozen=True)
class Limits:
    """The limits of one order, seconds and bytes of memory of the process, and of the start of the process."""

    timeout_seconds: float
    memory_bytes: int
    start_seconds: float = 120.0


class Process:
    """A child that is starting or ready. Its output goes to an unnamed file; `output` is the end of that.

    `pebble` (a pool of killable processes) was considered: it gives time limits and cancellation, but no stages while a
    task runs, no limit on memory, no output of a process that died, and no end with the parent; these are most of this
    module and `child`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._ready = False
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - as long as the process
        mine, its = socket.socketpair()
        with its:
            # -P: modules in the working directory must not shadow our packages.
            python = [sys.executable, "-P", "-m", "server.compute.exporting.child"]
            # In a session of its own: signals to the worker's group reach only the worker, which then ends the child.
            self._process = subprocess.Popen(
                [*python, str(its.fileno()), str(limits.memory_bytes)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(its.fileno(),),
                start_new_session=True,
            )
        self._connection = Connection(mine.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, order: Order[Result], watch: Watch) -> Result:
        """Raises what the work and `watch` raise, and ExportCrashed; the process may be dead afterwards."""
        if not self._ready:
            with _Watchdog(self, watch, self.limits.start_seconds) as watchdog:
                self._talk(watchdog, watch)
                self._ready = True
        os.ftruncate(self._log.fileno(), 0)
        with _Watchdog(self, watch, self.limits.timeout_seconds) as watchdog:
            result: Result = self._talk(watchdog, watch, order)
        return result

    def _talk(self, watchdog: _Watchdog, watch: Watch, order: Order[Any] | None = None) -> Any:  # noqa: ANN401
        """Send an order and wait for its result; without an order, wait until the process is ready."""
        try:
            if order is not None:
                self._connection.send(order)
            while True:
                kind, value = self._connection.recv()
                if kind == "stage":
                    watch.stage(value)
                else:
                    break
        except (EOFError, OSError, UnpicklingError) as error:
            raise watchdog.reason() from error
        except BaseException:
            # The rest of the answer is not wanted any more.
            self.end()
            raise
        if isinstance(value, RemoteError):
            if value.no_memory:
                self.end()
                raise ExportCrashed(self._no_memory(), log=value.trace)
            raise restored(value)
        return value

    def end(self) -> None:
        """Kill the process and its children."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.end()
        self._connection.close()
        self._log.close()

    def died(self) -> ExportCrashed:
        """The error for a process that ended by itself, by its exit status."""
        status = self._process.wait()
        how = exit_text(status)
        hint = "; the kernel does this when memory is short" if -status == signal.SIGKILL else ""
        kind = ExporterKilled if status < 0 else ExportCrashed
        return kind(
            f"the exporting process ended by {how} in the middle of its work{hint}; nothing was stored. "
            "Try again; if it happens again, read the log of this job's attempt",
            log=self.output(),
        )

    def too_slow(self, seconds: float) -> ExportCrashed:
        if not self._ready:
            return ExportCrashed(
                f"the exporting process was not ready after {seconds:g} s and was ended; nothing was stored. "
                "Try again when this machine has less to do; if it happens again, read the log of this job's attempt",
                log=self.output(),
            )
        return ExportCrashed(
            f"the export took more than {seconds:g} s and was ended: {TIMEOUT_SAYS}", log=self.output()
        )

    def too_large(self) -> ExportCrashed:
        return ExportCrashed(self._no_memory(), log=self.output())

    def _no_memory(self) -> str:
        return f"the export needed more than {self.limits.memory_bytes / 1e6:g} MB and was ended: {MEMORY_SAYS}"

    def output(self) -> str:
        """The last `LOG_BYTES` that the process printed during this order."""
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES))
        return tail.decode(errors="replace").replace("\0", "")

    def resident_bytes(self) -> int:
        """Its resident memory now; 0 once it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0


class _Watchdog:
    """A thread that watches an order: ends the process when it exceeds its time or memory, or when `watch` objects.

    The thread that waits for the result then reads an end of file, and asks `reason` what to raise.
    """

    def __init__(self, process: Process, watch: Watch, seconds: float) -> None:
        self._process = process
        self._watch = watch
        self._seconds = seconds
        self._done = threading.Event()
        self._why: BaseException | None = None
        self._thread = threading.Thread(target=self._look, name=f"watchdog-{process.pid}", daemon=True)

    def __enter__(self) -> _Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_exception: Any) -> None:  # noqa: ANN401
        self._done.set()
        self._thread.join()

    def reason(self) -> BaseException:
        """Why the process has ended."""
        self._done.set()
        self._thread.join()
        return self._why or self._process.died()

    def _look(self) -> None:
        started = checked = time.monotonic()
        while not self._done.wait(min(LOOK_SECONDS, self._seconds)):
            now = time.monotonic()
            if self._process.resident_bytes() > self._process.limits.memory_bytes:
                self._why = self._process.too_large()
            elif now - started > self._seconds:
                self._why = self._process.too_slow(self._seconds)
            elif now - checked > CHECK_SECONDS:
                checked = now
                self._why = _objection(self._watch)
            if self._why is not None:
                self._process.end()
                return


def _objection(watch: Watch) -> BaseException | None:
    try:
        watch.check()
    except BaseException as error:
        return error
    return None

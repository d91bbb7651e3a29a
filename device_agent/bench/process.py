"""A process that is bounded in time and in what it says, in a process group of its own, never left running."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from device_agent.cancellation import Cancellation
from device_agent.errors import InfraFault, Unfinished

# How often a running benchmark is checked: seldom enough not to disturb it.
POLL_SECONDS = 0.1
# A model can make LiteRT write without end; the rest is read and forgotten.
MAX_STDERR_BYTES = 16_000


@dataclass(frozen=True)
class Ended:
    """`returncode` as of subprocess: negative for a signal. `stderr` is its end, `peak_bytes` its resident memory."""

    returncode: int
    stderr: str
    peak_bytes: int


def run_process(
    command: Sequence[str], environment: Mapping[str, str], limit_s: float, cancellation: Cancellation
) -> Ended:
    """Run a command to its end. Raises Cancelled, Unfinished after `limit_s` s, InfraFault if it does not start."""
    cancellation.check()
    try:
        # In a process group of its own it is not interrupted by Ctrl-C; the agent ends it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
    except OSError as error:
        raise InfraFault(f"{command[0]} does not start ({error.strerror}): build android_bench again") from error
    assert process.stderr is not None
    try:
        return _watch(process, process.stderr, limit_s, cancellation)
    finally:
        _kill(process)
        process.stderr.close()


def _watch(process: subprocess.Popen[bytes], stderr: IO[bytes], limit_s: float, cancellation: Cancellation) -> Ended:
    deadline_s = time.monotonic() + limit_s
    log = _LogEnd(stderr.fileno())
    while True:
        log.wait(POLL_SECONDS)
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            _kill_group(process)  # before it is reaped, so that its number is not another group's
            _, status, usage = os.wait4(process.pid, 0)  # `wait()` does not return the peak memory
            process.returncode = os.waitstatus_to_exitcode(status)
            log.wait(0)
            return Ended(process.returncode, log.text(), usage.ru_maxrss * 1024)
        cancellation.check()
        if time.monotonic() > deadline_s:
            raise Unfinished(
                f"the benchmark did not end within {limit_s:g} s and was killed: the model is too slow, or endless; "
                "use a smaller one, raise max_secs of the protocol, or check that the device does not hang",
                log=log.text(),
            )


class _LogEnd:
    """The end of what a process writes into a pipe; the rest is read and forgotten."""

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._end = bytearray()
        self._read_bytes = 0
        self._open = True

    def wait(self, seconds: float) -> None:
        """Until something was read, or some seconds."""
        if not self._open:  # a process closes its stderr when it ends
            time.sleep(min(seconds, POLL_SECONDS / 10))
        elif self._poll.poll(seconds * 1000):
            self._read()

    def text(self) -> str:
        text = self._end.decode(errors="replace")
        cut = self._read_bytes - len(self._end)
        return f"[{self._read_bytes} bytes of log, only the end is kept]\n{text}" if cut else text

    def _read(self) -> None:
        chunk = os.read(self._pipe, MAX_STDERR_BYTES)
        self._open = bool(chunk)
        self._read_bytes += len(chunk)
        self._end += chunk
        del self._end[:-MAX_STDERR_BYTES]


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        _kill_group(process)
        process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # its members may be gone
        os.killpg(process.pid, signal.SIGKILL)

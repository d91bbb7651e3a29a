"""android_bench as a process on this machine: bounded in time, in a process group of its own, never left running."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from device_agent.bench.command import BenchRequest, command_line, limit_seconds
from device_agent.bench.find import Bench
from device_agent.bench.runner import BenchOutput
from device_agent.cancellation import Cancellation
from device_agent.errors import DeviceFault, InfraFault
from device_agent.logs import log_end
from device_agent.settings import PREFIX

log = structlog.get_logger()

# How often a running benchmark is checked: seldom enough not to disturb it.
POLL_SECONDS = 0.1
MAX_STDERR_CHARS = 16_000


@dataclass(frozen=True)
class Ended:
    """`returncode` as of subprocess: negative for a signal. `stderr` is its end."""

    returncode: int
    stderr: str


@dataclass(frozen=True)
class LocalProcess:
    """The BenchRunner of this machine. `work` is a folder for the files of a run."""

    bench: Bench
    work: Path
    grace_seconds: float

    def run(self, request: BenchRequest, cancellation: Cancellation) -> BenchOutput:
        """As BenchRunner says."""
        with tempfile.TemporaryDirectory(prefix="job-", dir=self.work) as folder:
            out = Path(folder) / "result.json"
            limit_s = limit_seconds(request.protocol, self.grace_seconds)
            ended = run_process(command_line(self.bench, request, out), limit_s, cancellation)
            try:
                result = out.read_bytes() if out.exists() else None
            except OSError as error:
                raise InfraFault(f"the result of android_bench cannot be read: {error.strerror}") from error
        # Users read these messages: the agent's folders mean nothing to them.
        stderr = ended.stderr.replace(str(request.model), request.model.name)
        return BenchOutput(ended.returncode, stderr, result)


def run_process(command: Sequence[str], limit_s: float, cancellation: Cancellation) -> Ended:
    """Run a command to its end. Raises Cancelled, DeviceFault after `limit_s` s, InfraFault if it does not start."""
    cancellation.check()
    # The program gets no token. In a process group of its own it is not interrupted by Ctrl-C; the agent ends it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    try:
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
    try:
        return Ended(stderr=_watch(process, limit_s, cancellation), returncode=process.returncode)
    finally:
        _kill(process)


def kill_leftovers(work: Path) -> None:
    """Kill benchmarks that a killed agent left running: those whose `--out` file is in its work folder.

    Only the holder of the home's lock may call this: no other agent works in the folder.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--out" in arguments and _is_in(arguments[arguments.index(b"--out") + 1 :], work):
                os.kill(int(folder.name), signal.SIGKILL)
                log.warning("killed a benchmark that an earlier agent left running", pid=int(folder.name))


def _is_in(arguments: Sequence[bytes], work: Path) -> bool:
    return bool(arguments) and arguments[0].startswith(os.fsencode(work) + b"/")


def _watch(process: subprocess.Popen[bytes], limit_s: float, cancellation: Cancellation) -> str:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            _, stderr = process.communicate(timeout=POLL_SECONDS)
            return log_end(stderr.decode(errors="replace"), MAX_STDERR_CHARS)
        except subprocess.TimeoutExpired:
            cancellation.check()
            if time.monotonic() > deadline:
                raise DeviceFault(
                    f"the benchmark did not end within {limit_s:g} s and was killed: "
                    "check that the device does not hang, or raise max_secs of the protocol"
                ) from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stderr is not None:
        process.stderr.close()

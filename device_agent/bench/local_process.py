"""Running the benchmark program on this machine: bounded in time, alone in its process group, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from device_agent.cancellation import Cancellation
from device_agent.errors import BadModel, DeviceFault, InfraFault, WorkError
from device_agent.settings import PREFIX

log = structlog.get_logger()

# How often a running benchmark is looked after: seldom enough not to disturb it.
TICK_SECONDS = 0.1
MAX_WORDS = 16_000

# Whose doing an exit code of android_bench is (its README, "Exit codes"); any other is the device's.
FAULTS: dict[int, type[WorkError]] = {
    2: InfraFault,  # bad argument
    3: InfraFault,  # library missing or unfit
    4: BadModel,
    5: InfraFault,  # CPU mask or threads refused
    6: InfraFault,  # result cannot be written
}


@dataclass(frozen=True)
class Ended:
    """`code` as of subprocess: negative for a signal. `words` is the end of stderr."""

    code: int
    words: str


def run_process(command: Sequence[str], limit_s: float, cancellation: Cancellation) -> Ended:
    """Run to the end. Raises Cancelled, DeviceFault after `limit_s` seconds, InfraFault where it does not start."""
    cancellation.check()
    # The program gets no token of ours; in a group of its own, Ctrl-C at a terminal ends it only through us.
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
        return Ended(words=_watch(process, limit_s, cancellation), code=process.returncode)
    finally:
        _kill(process)


def raise_for(ended: Ended) -> None:
    """Raises the WorkError that an exit code means; returns when it is 0."""
    if ended.code == 0:
        return
    fault = FAULTS.get(ended.code, DeviceFault)
    how = f"signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"exit code {ended.code}"
    raise fault(_last_error(ended.words) or f"android_bench ended with {how} and said nothing", log=ended.words)


def kill_leftovers(work: Path) -> None:
    """End benchmarks that an agent killed in the middle left running: those whose `--out` lies in its work folder.

    Only for the holder of the home's lock: nobody else works there.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"--out" in words and _lies_in(words[words.index(b"--out") + 1 :], work):
                os.kill(int(folder.name), signal.SIGKILL)
                log.warning("ended a benchmark that an earlier agent left running", pid=int(folder.name))


def _lies_in(words: Sequence[bytes], work: Path) -> bool:
    return bool(words) and words[0].startswith(os.fsencode(work) + b"/")


def _watch(process: subprocess.Popen[bytes], limit_s: float, cancellation: Cancellation) -> str:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            _, stderr = process.communicate(timeout=TICK_SECONDS)
            return stderr.decode(errors="replace")[-MAX_WORDS:]
        except subprocess.TimeoutExpired:
            cancellation.check()
            if time.monotonic() > deadline:
                raise DeviceFault(
                    f"the benchmark did not end within {limit_s:g} s and was killed: "
                    "look whether the device hangs, or give the protocol a longer max_secs"
                ) from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _last_error(words: str) -> str:
    """The sentence of the last "android_bench: error: …" line; the last line where there is none."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if ": error: " in line]
    return (errors or lines or [""])[-1].partition(": error: ")[2] or (lines or [""])[-1]

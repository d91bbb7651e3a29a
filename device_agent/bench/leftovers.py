"""Benchmarks that a killed agent left running."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()


def kill_leftovers(work: Path) -> None:
    """Kill the benchmarks that run in a work folder.

    Only the holder of the home's lock may call this: no other agent works in the folder.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _runs_in(folder, os.fsencode(work) + b"/"):
                os.kill(int(folder.name), signal.SIGKILL)
                log.warning("killed a benchmark that an earlier agent left running", pid=int(folder.name))


def _runs_in(process: Path, work: bytes) -> bool:
    arguments = (process / "cmdline").read_bytes().split(b"\0")
    if b"--out" not in arguments:
        return False
    out = arguments[arguments.index(b"--out") + 1 :]
    folder = os.fsencode((process / "cwd").readlink()) + b"/"
    return folder.startswith(work) or any(word.startswith(work) for word in out[:1])

"""Check an uploaded .tflite without a runtime, in a process of its own that has little memory and time.

LiteRT itself was considered. Its interpreter refuses damaged buffers as well, but it runs native code on a file that is
not trusted, and a process with it takes about 0.6 s to start; `tflite_reader` starts in some tens of milliseconds. The
generated classes of the schema do not check bounds, and negative offsets wrap around.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from server.errors import BadValue, Busy, InfraError
from server.services import tflite_reader

CPU_SECONDS = 10
WALL_SECONDS = 60.0
"""More than the CPU's time, because the machine may be busy."""
MEMORY_BYTES = 256_000_000
"""Beside the file, which is mapped."""
RETRY_SECONDS = 10
COSTS = f"the .tflite file takes more than {CPU_SECONDS} s or {MEMORY_BYTES // 1_000_000} MB to be checked"


def describe(path: Path) -> dict[str, Any]:
    """Check a .tflite file; returns `{inputs, outputs, operators}`, tensors as `{name, type, shape}`.

    Raises:
        BadValue: what is wrong with the file.
        Busy: the machine has no time to check it now.
        InfraError: no process can be started.
    """
    answer = _answer(_run(path))
    if "refused" in answer:
        raise BadValue(answer["refused"])
    return answer


def _run(path: Path) -> subprocess.CompletedProcess[bytes]:
    memory_bytes = MEMORY_BYTES + path.stat().st_size
    command = [sys.executable, "-I", "-S", tflite_reader.__file__, str(memory_bytes), str(CPU_SECONDS)]
    # Nothing of this process's environment, which may hold a password, but where its libraries are.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    try:
        with path.open("rb") as file:
            return subprocess.run(
                command, stdin=file, capture_output=True, env=environment, cwd="/", check=False, timeout=WALL_SECONDS
            )
    except subprocess.TimeoutExpired as error:
        raise Busy("the machine has no time to check the file now", retry_after_seconds=RETRY_SECONDS) from error
    except OSError as error:
        raise InfraError(f"no process can be started to check the file: {error.strerror or error}") from error


def _answer(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    if done.returncode in (-signal.SIGXCPU, -signal.SIGSEGV) or b"MemoryError" in done.stderr:
        raise BadValue(COSTS)
    if done.returncode < 0:
        raise Busy("the process that checks the file was ended", retry_after_seconds=RETRY_SECONDS)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InfraError(f"the file cannot be checked: {' '.join(last)}") from error
    return answer

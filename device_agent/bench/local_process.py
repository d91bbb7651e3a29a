"""android_bench on this machine: in a sandbox, bounded in time and memory."""

from __future__ import annotations

import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from device_agent.bench.command import BenchRequest, command_line, limit_seconds
from device_agent.bench.find import Bench
from device_agent.bench.process import Ended, run_process
from device_agent.bench.runner import BenchOutput, MemoryUse
from device_agent.cancellation import Cancellation
from device_agent.errors import InfraFault
from device_agent.sandbox import bubblewrap, memory
from device_agent.sandbox.command import Sandbox, environment, launch_command
from device_agent.sandbox.plan import Limits

log = structlog.get_logger()

RESULT = "result.json"
# A result holds every sample; the agent reads it as a whole.
MAX_RESULT_BYTES = 32_000_000
MAX_OPEN_FILES = 256
MAX_PROCESSES = 1024
# Address space that is not the model's: program, libraries, buffers, and the stack and heap of each thread.
PROGRAM_BYTES = 400_000_000
THREAD_BYTES = 150_000_000
# Loading and ending take processor time, too.
SPARE_CPU_SECONDS = 10
# Room for a result and a report; below it no job is claimed.
MIN_FREE_BYTES = 2 * MAX_RESULT_BYTES


@dataclass(frozen=True)
class LocalProcess:
    """The BenchRunner of this machine. `work` is a folder for the files of a run."""

    bench: Bench
    work: Path
    grace_seconds: float
    sandbox: Sandbox

    def run(self, request: BenchRequest, cancellation: Cancellation) -> BenchOutput:
        """As BenchRunner says."""
        kills = memory.oom_kills()
        with self._folder() as folder:
            ended = self._run_in(folder, request, cancellation)
            result = _read(folder / RESULT)
        returncode = ended.returncode
        if self.sandbox.files == "bubblewrap":
            returncode = bubblewrap.returncode_inside(returncode)
        # Users read these messages: the agent's folders mean nothing to them.
        stderr = ended.stderr.replace(str(request.model), request.model.name)
        stderr = stderr.replace(f"./{request.model.name}", request.model.name)
        use = MemoryUse(self.sandbox.memory_bytes, ended.peak_bytes, oom_killed=memory.oom_kills() != kills)
        return BenchOutput(returncode, stderr, result, use)

    def ready(self) -> bool:
        """Whether the disk has room for a run; a job that is claimed without it would fail."""
        try:
            return shutil.disk_usage(self.work).free >= MIN_FREE_BYTES
        except OSError:
            return False

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        try:
            holder = tempfile.TemporaryDirectory(prefix="job-", dir=self.work, ignore_cleanup_errors=True)
        except OSError as error:
            raise InfraFault(f"{self.work} cannot be written ({error.strerror}): free space there") from error
        with holder as name:
            yield Path(name)

    def _run_in(self, folder: Path, request: BenchRequest, cancellation: Cancellation) -> Ended:
        model = Path(request.model)
        limit_s = limit_seconds(request, self.grace_seconds)
        try:
            self.sandbox.give(folder)
            self.sandbox.let_read(model)
            limits = self._limits(request, limit_s, model.stat().st_size)
        except OSError as error:
            raise InfraFault(f"the files of a run cannot be prepared ({error}): check the agent's home") from error
        command = command_line(self.bench, request, Path(RESULT))
        files = [str(self.bench.program), str(self.bench.library), str(model)]
        launched = launch_command(self.sandbox, command, str(folder), files, limits)
        return run_process(launched, environment(), limit_s, cancellation)

    def _limits(self, request: BenchRequest, limit_s: float, model_bytes: int) -> Limits:
        threads = request.protocol.threads
        return Limits(
            memory_bytes=self.sandbox.memory_bytes + model_bytes + PROGRAM_BYTES + threads * THREAD_BYTES,
            cpu_seconds=math.ceil(threads * limit_s) + SPARE_CPU_SECONDS,
            file_bytes=MAX_RESULT_BYTES,
            files=MAX_OPEN_FILES,
            # Of a user that runs more than benchmarks, it would count the others.
            processes=MAX_PROCESSES if self.sandbox.user else None,
        )


def _read(path: Path) -> bytes | None:
    """The result; None if there is none. The benchmark may have left anything under the name. Raises InfraFault."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return file.read(MAX_RESULT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InfraFault(f"the result of android_bench cannot be read: {error.strerror}") from error

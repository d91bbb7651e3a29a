"""How a benchmark is started on a device, apart from what its outcome means (`outcome`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from device_agent.bench.command import BenchRequest
from device_agent.cancellation import Cancellation


@dataclass(frozen=True)
class BenchOutput:
    """What one run of android_bench left: `returncode` as of subprocess, negative for a signal; the end of its stderr,
    in which the model goes by its bare file name; the bytes of the result file, None if there is no file.

    `memory` is None where a run has no limit of memory.
    """

    returncode: int
    stderr: str
    result: bytes | None
    memory: MemoryUse | None = None


@dataclass(frozen=True)
class MemoryUse:
    """The memory of one run. `oom_killed`: the kernel killed it, because memory ran out."""

    limit_bytes: int
    peak_bytes: int
    oom_killed: bool


class BenchRunner(Protocol):
    """Runs android_bench on one device; `local_process` does so on this machine."""

    def run(self, request: BenchRequest, cancellation: Cancellation) -> BenchOutput:
        """Run it once, to its end.

        Raises Cancelled soon after `cancellation` is set, Unfinished if it does not end in time, InfraFault if it does
        not start. In every case, no process and no file of the run stays on the device.
        """
        ...

    def ready(self) -> bool:
        """Whether a run could start now."""
        return True

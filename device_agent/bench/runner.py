"""How a benchmark is started on a device, apart from what its outcome means (`outcome`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from device_agent.bench.command import BenchRequest
from device_agent.cancellation import Cancellation


@dataclass(frozen=True)
class BenchOutput:
    """What one run of android_bench left: `returncode` as of subprocess, negative for a signal; the end of its stderr,
    in which the model goes by its bare file name; the bytes of the result file, None if there is no file."""

    returncode: int
    stderr: str
    result: bytes | None


class BenchRunner(Protocol):
    """Runs android_bench on one device; `local_process` does so on this machine."""

    def run(self, request: BenchRequest, cancellation: Cancellation) -> BenchOutput:
        """Run it once, to its end.

        Raises Cancelled soon after `cancellation` is set, DeviceFault if it does not end in time, InfraFault if it
        does not start. In every case, no process and no file of the run stays on the device.
        """
        ...

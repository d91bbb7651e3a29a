"""The command line of android_bench for one run, the same on every device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath

from device_agent.bench.find import Bench
from server.wire import MeasureProtocol


@dataclass(frozen=True)
class BenchRequest:
    """One run of android_bench: a model file under a protocol, on the CPUs of a mask (None: the kernel chooses).

    It is killed after `at_most_seconds`, if that is less than what the protocol allows.
    """

    model: PurePath
    protocol: MeasureProtocol
    cpu_mask: int | None
    profile: bool
    at_most_seconds: float = math.inf


def command_line(bench: Bench, request: BenchRequest, out: PurePath) -> list[str]:
    """The words of the command. All paths are those of the device; `out` is the file for the result."""
    protocol, mask = request.protocol, request.cpu_mask
    command = [str(bench.program), "--out", str(out), "--model", str(request.model)]
    command += ["--lib", str(bench.library), "--lib-version", bench.library_version]
    command += ["--threads", str(protocol.threads), "--runs", str(protocol.runs)]
    command += ["--min-secs", f"{protocol.min_secs:g}", "--max-secs", f"{protocol.max_secs:g}"]
    # A session is many short processes: warming up takes as long as timing, not the program's own half second.
    command += ["--warmup-secs", f"{protocol.min_secs:g}"]
    command += ["--cpu-mask", f"{mask:x}"] if mask else []
    return command + (["--profile"] if request.profile else [])


def limit_seconds(request: BenchRequest, grace_seconds: float) -> float:
    """How long one run may take: warm-up and timed runs are each bounded by `max_secs`; `grace_seconds` are for loading
    and for the last run."""
    return min(2 * request.protocol.max_secs + grace_seconds, request.at_most_seconds)

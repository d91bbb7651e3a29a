"""This machine as a device."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.bench.command import BenchRequest
from device_agent.bench.find import Bench
from device_agent.bench.outcome import result_of
from device_agent.bench.result import BenchResult
from device_agent.bench.runner import BenchRunner
from device_agent.bench.session import Conditions, Files, ReportProgress, check_length, measure, session
from device_agent.cancellation import Cancellation
from device_agent.devices import linux_cpu
from device_agent.devices.device import Device
from device_agent.errors import SessionTooLong, Unfinished
from server.wire import DeviceDescription, Lease, MeasurementSession
from server.wire.text import MAX_TEXT_CHARS

# How long idle times are watched before CPUs are chosen; the kernel counts in hundredths of a second.
WATCH_SECONDS = 0.2
# The field of /proc/cpuinfo with the processor's name differs between architectures.
MODEL_FIELDS = ("model name", "Model", "Hardware", "cpu model", "CPU part")


@dataclass(frozen=True)
class Host(Device):
    """The device `host`: measures with `runner` on the CPUs that are least busy, at most `session_seconds` long.

    `sandbox` says what holds its benchmarks, for the description.
    """

    name: str
    bench: Bench
    runner: BenchRunner
    session_seconds: float = 900.0
    sandbox: str = ""
    about: DeviceDescription = field(init=False)

    def __post_init__(self) -> None:
        # Described once: a description that changed while the agent runs would give a session two device profiles.
        object.__setattr__(self, "about", _describe(self.name, self.bench, self.sandbox))

    def describe(self) -> DeviceDescription:
        return self.about

    def conditions(self) -> Conditions:
        return linux_cpu.conditions() | ({} if self.ready() else {"not_ready": "the disk of the agent's home is full"})

    def ready(self) -> bool:
        return self.runner.ready()

    def measure(
        self, lease: Lease, files: Files, cancellation: Cancellation, progress: ReportProgress
    ) -> MeasurementSession:
        """Raises BadModel, SessionTooLong, DeviceFault, InfraFault, Cancelled."""
        check_length(lease.protocol, files, self.session_seconds)
        before, stolen, begin_s = linux_cpu.conditions(), linux_cpu.steal_ticks(), time.monotonic()
        mask = lease.protocol.cpu_mask or _free_cores(lease.protocol.threads)

        def bench(model: Path, profile: bool) -> BenchResult:
            left_s = begin_s + self.session_seconds - time.monotonic()
            request = BenchRequest(model, lease.protocol, mask, profile, at_most_seconds=max(0.0, left_s))
            try:
                return result_of(self.runner.run(request, cancellation))
            except Unfinished as error:
                if time.monotonic() < begin_s + self.session_seconds:
                    raise
                raise self._too_long(error) from error

        measured = measure(lease.protocol, files, bench, cancellation, progress)
        conditions: Conditions = {
            "before": before,
            "after": linux_cpu.conditions(),
            "cpu_mask": f"{mask:x}" if mask else None,
            "seconds": round(time.monotonic() - begin_s, 3),
            "stolen_ticks": None if stolen is None else (linux_cpu.steal_ticks() or stolen) - stolen,
        }
        return session(measured, self.about, conditions)

    def _too_long(self, error: Unfinished) -> SessionTooLong:
        return SessionTooLong(
            f"the session did not end within {self.session_seconds:g} s, the limit of this device: lower rounds, runs, "
            "min_secs or max_secs of the protocol, or use a faster model",
            log=error.log,
        )


def _free_cores(threads: int) -> int | None:
    """Mask of the cores that are least busy now, one per thread; None if there are fewer cores than threads."""
    before = linux_cpu.idle_ticks()
    time.sleep(WATCH_SECONDS)
    allowed = linux_cpu.allowed_cpus()
    for cores in (linux_cpu.fastest(allowed), allowed):
        if threads <= len(cores):
            return linux_cpu.mask_of(linux_cpu.quietest(cores, threads, before, linux_cpu.idle_ticks()))
    return None


def _describe(name: str, bench: Bench, sandbox: str) -> DeviceDescription:
    info = _cpuinfo()
    model = next((info[name] for name in MODEL_FIELDS if info.get(name)), platform.machine())
    stepping = [info.get(name, "?") for name in ("cpu family", "model", "stepping")]
    soc = f"{info['vendor_id']} {'-'.join(stepping)}" if "vendor_id" in info else model
    return DeviceDescription(
        name=name,
        kind="host",
        serial=_text(linux_cpu.read_text(Path("/etc/machine-id")).strip() or platform.node()),
        model=_text(model),
        soc=_text(soc),
        os_build=_text(f"{_distribution()}, kernel {platform.release()}"),
        abi=platform.machine() or "unknown",
        runtime_version=_text(f"litert {bench.library_version}"),
        bench_build=bench.build_id,
        properties=_properties(info, sandbox),
    )


def _properties(info: dict[str, str], sandbox: str) -> dict[str, str]:
    properties = {
        "cores": str(os.cpu_count() or 0),
        "cores_allowed": ",".join(map(str, linux_cpu.allowed_cpus())),
        "cpu_mhz": info.get("cpu MHz", ""),
        "cache": info.get("cache size", ""),
        "features": info.get("flags", "") or info.get("Features", ""),
        "governor": ",".join(linux_cpu.conditions().get("governor", [])),
        "memory_kb": linux_cpu.read_text(Path("/proc/meminfo")).partition("MemTotal:")[2].split("kB")[0].strip(),
        "hostname": platform.node(),
        "sandbox": sandbox,
    }
    return {name: value for name, value in properties.items() if value}


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    first = linux_cpu.read_text(Path("/proc/cpuinfo")).split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system() or "unknown"


def _text(value: str) -> str:
    return value[:MAX_TEXT_CHARS] or "unknown"

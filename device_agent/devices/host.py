"""This machine as a device."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from device_agent.bench.find import Bench
from device_agent.bench.local_process import raise_for, run_process
from device_agent.bench.result import BenchResult, read_result
from device_agent.bench.session import Conditions, Files, ReportProgress, measure, session
from device_agent.cancellation import Cancellation
from device_agent.devices import linux_cpu
from device_agent.errors import InfraFault
from server.wire import DeviceDescription, Lease, MeasurementSession, MeasureProtocol

# How long the CPUs are watched before one is chosen; the kernel counts in hundredths of a second.
LOOK_SECONDS = 0.2
# /proc/cpuinfo names the processor differently on each architecture.
MODEL_FIELDS = ("model name", "Model", "Hardware", "cpu model", "CPU part")
MAX_TEXT = 500


@dataclass(frozen=True)
class Host:
    """The device `host`: measures with android_bench as a process on one free core. `work` is for files of a job."""

    name: str
    bench: Bench
    work: Path
    grace_seconds: float
    about: DeviceDescription = field(init=False)

    def __post_init__(self) -> None:
        # Described once: what changes while this process runs (nothing does) would be measured under two names.
        object.__setattr__(self, "about", _describe(self.name, self.bench))

    def describe(self) -> DeviceDescription:
        return self.about

    def conditions(self) -> Conditions:
        return linux_cpu.conditions()

    def measure(
        self, lease: Lease, files: Files, cancellation: Cancellation, progress: ReportProgress
    ) -> MeasurementSession:
        """Raises BadModel, DeviceFault, InfraFault, Cancelled."""
        before, stolen, begin_s = linux_cpu.conditions(), linux_cpu.steal_ticks(), time.monotonic()
        mask = lease.protocol.cpu_mask or _free_cores(lease.protocol.threads)
        with tempfile.TemporaryDirectory(prefix="job-", dir=self.work) as folder:

            def bench(model: Path, profile: bool) -> BenchResult:
                return self._bench(model, lease.protocol, mask, profile, Path(folder) / "result.json", cancellation)

            measured = measure(lease.protocol, files, bench, cancellation, progress)
        conditions: Conditions = {
            "before": before,
            "after": linux_cpu.conditions(),
            "cpu_mask": f"{mask:x}" if mask else None,
            "seconds": round(time.monotonic() - begin_s, 3),
            "stolen_ticks": None if stolen is None else (linux_cpu.steal_ticks() or stolen) - stolen,
        }
        return session(measured, self.about, conditions)

    def _bench(
        self,
        model: Path,
        protocol: MeasureProtocol,
        mask: int | None,
        profile: bool,
        out: Path,
        cancellation: Cancellation,
    ) -> BenchResult:
        out.unlink(missing_ok=True)
        command = self._command(model, protocol, mask, profile, out)
        # Warm-up and timed runs are each bounded by max_secs; loading and one last run come on top.
        ended = run_process(command, 2 * protocol.max_secs + self.grace_seconds, cancellation)
        # The words go to the user, to whom the agent's folders mean nothing.
        raise_for(replace(ended, words=ended.words.replace(str(model), model.name)))
        try:
            return read_result(out.read_bytes())
        except OSError as error:
            raise InfraFault(
                f"android_bench ended well and left no result ({error.strerror}): build it again"
            ) from error

    def _command(self, model: Path, protocol: MeasureProtocol, mask: int | None, profile: bool, out: Path) -> list[str]:
        command = [str(self.bench.program), "--out", str(out), "--model", str(model)]
        command += ["--lib", str(self.bench.library), "--lib-version", self.bench.library_version]
        command += ["--threads", str(protocol.threads), "--runs", str(protocol.runs)]
        command += ["--min-secs", f"{protocol.min_secs:g}", "--max-secs", f"{protocol.max_secs:g}"]
        # A session is many short processes: warming up takes as long as timing, not the program's own half second.
        command += ["--warmup-secs", f"{protocol.min_secs:g}"]
        command += ["--cpu-mask", f"{mask:x}"] if mask else []
        return command + (["--profile"] if profile else [])


def _free_cores(threads: int) -> int | None:
    """Mask of the cores that are least busy now, a core a thread; None where there are too few to choose from."""
    before = linux_cpu.idle_ticks()
    time.sleep(LOOK_SECONDS)
    allowed = linux_cpu.allowed_cpus()
    for cores in (linux_cpu.fastest(allowed), allowed):
        if threads <= len(cores):
            return linux_cpu.mask_of(linux_cpu.quietest(cores, threads, before, linux_cpu.idle_ticks()))
    return None


def _describe(name: str, bench: Bench) -> DeviceDescription:
    info = _cpuinfo()
    model = next((info[field] for field in MODEL_FIELDS if info.get(field)), platform.machine())
    stepping = [info.get(part, "?") for part in ("cpu family", "model", "stepping")]
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
        properties=_properties(info),
    )


def _properties(info: dict[str, str]) -> dict[str, str]:
    found = {
        "cores": str(os.cpu_count() or 0),
        "cores_allowed": ",".join(map(str, linux_cpu.allowed_cpus())),
        "cpu_mhz": info.get("cpu MHz", ""),
        "cache": info.get("cache size", ""),
        "features": info.get("flags", "") or info.get("Features", ""),
        "governor": ",".join(linux_cpu.conditions().get("governor", [])),
        "memory_kb": linux_cpu.read_text(Path("/proc/meminfo")).partition("MemTotal:")[2].split("kB")[0].strip(),
        "hostname": platform.node(),
    }
    return {name: value for name, value in found.items() if value}


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
    return value[:MAX_TEXT] or "unknown"

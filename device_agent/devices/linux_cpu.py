"""The processors of this machine: which there are, which are idle, their clocks and temperatures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PROC = Path("/proc")
SYS = Path("/sys")


def allowed_cpus() -> tuple[int, ...]:
    """The CPUs that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def mask_of(cpus: Iterable[int]) -> int:
    """A bit per CPU."""
    return sum(1 << cpu for cpu in set(cpus))


def fastest(cpus: Sequence[int], sys: Path = SYS) -> tuple[int, ...]:
    """The CPUs of the fastest kind, by the kernel's capacity or maximum clock; all if it reports neither."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        values = {cpu: read_integer(sys / f"devices/system/cpu/cpu{cpu}/{name}") for cpu in cpus}
        known = [value for value in values.values() if value is not None]
        if known:
            return tuple(cpu for cpu in cpus if values[cpu] == max(known))
    return tuple(cpus)


def idle_ticks(proc: Path = PROC) -> dict[int, int]:
    """How long each CPU has been idle since boot; empty if the kernel does not report it."""
    ticks = {}
    for line in read_text(proc / "stat").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and len(values) >= 5:
            ticks[int(name[3:])] = int(values[3]) + int(values[4])
    return ticks


def quietest(cpus: Sequence[int], count: int, before: dict[int, int], after: dict[int, int]) -> tuple[int, ...]:
    """The `count` CPUs that idled most in between; of equals the last ones, as the first serve interrupts."""
    return tuple(sorted(cpus, key=lambda cpu: (after.get(cpu, 0) - before.get(cpu, 0), cpu))[-count:])


def steal_ticks(proc: Path = PROC) -> int | None:
    """Hundredths of a second since boot in which the hypervisor ran other guests (steal time)."""
    fields = read_text(proc / "stat").partition("\n")[0].split()
    return int(fields[8]) if len(fields) > 8 and fields[0] == "cpu" else None


def conditions(proc: Path = PROC, sys: Path = SYS) -> dict[str, Any]:
    """Load, temperatures, clocks and governors now; what the machine does not report is left out."""
    readings: dict[str, Any] = {
        "loadavg": [float(word) for word in read_text(proc / "loadavg").split()[:3]],
        "temperature_mc": temperatures(sys),
        "cpu_khz": _by_cpu(sys, "scaling_cur_freq"),
        "governor": sorted(set(_by_cpu(sys, "scaling_governor").values())),
    }
    return {name: value for name, value in readings.items() if value}


def temperatures(sys: Path = SYS) -> dict[str, int]:
    """Thousandths of °C by zone."""
    by_zone = {}
    for zone in sorted((sys / "class/thermal").glob("thermal_zone*")):
        value = read_integer(zone / "temp")
        if value is not None:
            by_zone[f"{zone.name.removeprefix('thermal_zone')}:{read_text(zone / 'type').strip()}"] = value
    return by_zone


def read_text(path: Path) -> str:
    """The text of a file, empty if it cannot be read: machines differ in what they report."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_integer(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _by_cpu(sys: Path, name: str) -> dict[str, str]:
    paths = (sys / "devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}")
    return {path.parent.parent.name: text for path in sorted(paths) if (text := read_text(path).strip())}

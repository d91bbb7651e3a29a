"""How much memory a benchmark may take, and whether the kernel ended processes for want of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Many times what a model for phones needs; a machine with more has it for other work.
MOST_BYTES = 4_000_000_000


def default_limit_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Half of what this process could get, at most MOST_BYTES: of the machine's memory, or of the least limit of its
    control groups.

    It does not depend on what is free now: a model that is refused would be refused again.
    """
    return min(MOST_BYTES, min((_machine_bytes(proc), *_group_limits(proc, cgroups))) // 2)


def oom_kills(proc: Path = PROC) -> int | None:
    """How many processes the kernel has ended because memory ran out, here or in a control group; None: unknown."""
    for line in _text(proc / "vmstat").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdigit():
            return int(value)
    return None


def _machine_bytes(proc: Path) -> int:
    kilobytes = _text(proc / "meminfo").partition("MemTotal:")[2].split("kB")[0].strip()
    return int(kilobytes) * 1024 if kilobytes.isdigit() else 2 << 30


def _group_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Of the process's groups and those above them, in version 2 and 1; a container sees its own as the root."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots, name = [cgroups, cgroups / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = [cgroups / "memory"], "memory.limit_in_bytes"
        else:
            continue
        for root in roots:
            group = root / path.lstrip("/")
            folders = (group, *(parent for parent in group.parents if parent.is_relative_to(root)))
            values = (_text(folder / name).strip() for folder in folders)
            yield from (int(value) for value in values if value.isdigit())


def _text(path: Path) -> str:
    """Empty if the file cannot be read: kernels differ in what they have."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

"""The processor of this machine, for the record of what is measured on it."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_names() -> list[str]:
    """The name of each core's processor from the kernel; none where the kernel does not say."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]

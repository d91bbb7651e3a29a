"""What of the system a benchmark needs: libraries, and what the machine says about its processors. No user's files."""

from __future__ import annotations

from collections.abc import Iterator

from device_agent.sandbox import landlock

# The loader runs from there, which counts as executing.
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store", "/gnu/store")
LOADER_CACHE = "/etc/ld.so.cache"
HARDWARE = ("/sys/devices", "/sys/class")
# Only what the process itself is: other processes' command lines are not its business.
PROCESS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def readable_rules() -> Iterator[tuple[str, int]]:
    """As rules of Landlock."""
    yield from ((path, landlock.RUN) for path in LIBRARIES)
    yield from ((path, landlock.READ) for path in (LOADER_CACHE, *HARDWARE, *PROCESS, *DEVICES))

"""bubblewrap (bwrap), for kernels without Landlock: the benchmark sees a file system of the named files only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from device_agent.sandbox.system import HARDWARE, LIBRARIES, LOADER_CACHE

# A shell's way to say that a signal ended a process, which bwrap takes over.
SIGNAL_BASE = 128


def program() -> str | None:
    """bwrap, None if it is not installed."""
    return shutil.which("bwrap")


def wrapped(bwrap: str, command: Sequence[str], folder: str, files: Sequence[str]) -> list[str]:
    """The command that runs `command` in `folder`, with `files` readable. It has no network and sees no process."""
    words = [bwrap, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    for path in (*LIBRARIES, LOADER_CACHE, *HARDWARE):
        words += ["--ro-bind-try", path, path]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for path in files:
        words += ["--ro-bind", path, path]
    return [*words, "--bind", folder, folder, "--chdir", folder, "--", *command]


def returncode_inside(returncode: int) -> int:
    """The return code of the command as of subprocess, from that of bwrap."""
    return SIGNAL_BASE - returncode if returncode > SIGNAL_BASE else returncode

"""The processes of a service, found from outside by its home folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def started_for(home: Path) -> dict[int, str]:
    """Command lines of the living processes that were started for a home folder, by pid.

    The folder is in their environment. Benchmarks, which get no environment, work in a folder inside of it.
    """
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # A process without a command line has ended, but for its parent.
            if _belongs(folder, home) and (line := (folder / "cmdline").read_bytes()):
                lines[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return lines


def _belongs(folder: Path, home: Path) -> bool:
    wanted = b"ELASTICVIT_HOME=" + os.fsencode(home)
    if wanted in (folder / "environ").read_bytes().split(b"\0"):
        return True
    return (folder / "cwd").readlink().is_relative_to(home / "agents")

"""The temporary names of the home folder's files, by which a start finds what killed processes left.

`elasticvit.atomic` writes them. The server does not name its part files after the target: uploads get a name, their
hash, when they are complete.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import AbstractContextManager
from pathlib import Path

from elasticvit import atomic

PREFIX = ".part-"
STALE_SECONDS = 3600.0


def part_file(folder: Path, mode: int = 0o666) -> AbstractContextManager[atomic.PartFile]:
    """A new part file in `folder` with permissions `mode`, less the umask; removed at the end unless it was kept.
    Raises OSError."""
    return atomic.part_file(folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}", mode)


def remove_stale(folder: Path) -> None:
    """Remove the part files of killed processes; files younger than `STALE_SECONDS` may belong to a living one."""
    for path in folder.glob(f"{PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue

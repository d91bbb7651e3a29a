"""The temporary names of the home folder's files, by which a start finds what killed processes left.

`elasticvit.atomic` writes them. The server does not name its part files after the target: uploads get a name, their
hash, when they are complete. A name says which process writes the file: `.part-PLACE-PID-RANDOM`, where the place is
this machine and its numbering of processes, since containers that share a home number their processes by themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path

from elasticvit import atomic

PREFIX = ".part-"
STALE_SECONDS = 3600.0
# Older versions wrote no place.
NAMED = re.compile(re.escape(PREFIX) + r"(?:(?P<place>[0-9a-f]{8})-)?(?P<pid>[0-9]{1,10})-[0-9a-f]+")
# The clock of files may be a tick behind that of processes.
TICK_SECONDS = 1.0


def part_file(folder: Path, mode: int = 0o666) -> AbstractContextManager[atomic.PartFile]:
    """A new part file in `folder` with permissions `mode`, less the umask; removed at the end unless it was kept.
    Raises OSError."""
    return atomic.part_file(folder / f"{PREFIX}{_place()}-{os.getpid()}-{secrets.token_hex(6)}", mode)


def remove_stale(folder: Path) -> None:
    """Remove the part files of processes that are gone, whatever their age.

    Of a file whose writer this machine cannot see, such as one in another container, only the age is known: it is
    removed after `STALE_SECONDS`.
    """
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):
            if _is_stale(path):
                path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    changed_at = path.stat().st_mtime
    named = NAMED.fullmatch(path.name)
    if named is not None and named["place"] in (None, _place()):
        return not _may_write(int(named["pid"]), changed_at)
    return time.time() - changed_at > STALE_SECONDS


def _may_write(pid: int, changed_at: float) -> bool:
    """Whether the process lives and began before the file was last changed; else its number was given again."""
    try:
        started_s = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        up_s = float(Path("/proc/uptime").read_text().split()[0])
    except FileNotFoundError:
        return False
    except (OSError, IndexError, ValueError):
        return time.time() - changed_at <= STALE_SECONDS
    return changed_at >= time.time() - up_s + started_s - TICK_SECONDS


@cache
def _place() -> str:
    """Where this process runs: the machine's name and its namespace of process numbers."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]

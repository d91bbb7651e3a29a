"""Files that appear whole or not at all: written under a temporary name, flushed to the disk, then renamed.

The server writes all its files by `part_file`. `elasticvit.atomic` does the same for the files of a command, which are
in memory and appear together; files of the server are streamed, secret, or named by their hash.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PREFIX = ".part-"
STALE_SECONDS = 3600.0


@dataclass(frozen=True)
class PartFile:
    """An open file under a temporary name, `path`."""

    file: BinaryIO
    path: Path

    def keep(self, target: Path) -> None:
        """Make it durable and rename it to `target`, on the same disk; an older file is replaced. Raises OSError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.path.replace(target)
        _sync_folder(target.parent)


@contextmanager
def part_file(folder: Path, mode: int = 0o666) -> Iterator[PartFile]:
    """A new part file in `folder` with permissions `mode`, less the umask; removed at the end unless it was kept.
    Raises OSError."""
    path = folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield PartFile(file, path)
    finally:
        path.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove the part files of killed processes; files younger than `STALE_SECONDS` may belong to a living one."""
    for path in folder.glob(f"{PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue


def _sync_folder(folder: Path) -> None:
    """So that the rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are either whole or not there.

`elasticvit.atomic` does the same. The agent has its own, because it imports nothing of `elasticvit`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to. It gets its name at the end of the block, once its bytes are on the disk.

    If the block or the disk fails, nothing is left and an older file of that name stays. Raises OSError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of which all bytes are known. Raises OSError."""
    with written_whole(path) as file:
        file.write(data)


def remove_parts(folder: Path) -> None:
    """Remove unfinished files that a killed process left."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

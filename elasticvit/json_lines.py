"""Files of lines that grow while a run goes on, and lose at most their last line in a crash.

A writer that is killed may leave the beginning of a line. The next writer removes it, and readers leave it out.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_to_append(path: Path) -> Iterator[BinaryIO]:
    """A file that may be read, and to which whole lines may be written; synced to the disk at the end of the block.

    It is made if needed, with its folders, and locked against other writers. Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(_end_of_lines(file))
        yield file
        file.flush()
        os.fsync(file.fileno())


def complete_lines(path: Path) -> list[str]:
    """The lines of a file without their line breaks; an incomplete last one is left out. Raises `OSError`, and
    `ValueError` for a file that is not UTF-8."""
    return path.read_text("utf-8").split("\n")[:-1]


def _end_of_lines(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read() == b"\n":
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1

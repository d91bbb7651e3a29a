"""A process's own log file, kept small: standard output and error are written to it, so that tracebacks and the words
of libraries are in it, too."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 10_000_000
KEPT = 3  # files, with the one that is written


class LogFile:
    """`path`, and `path.1` and so on with what was written before. Several processes may write to the same file."""

    def __init__(
        self, path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT, descriptors: tuple[int, ...] = (1, 2)
    ) -> None:
        """Args: descriptors: what is written to the file from `open` on."""
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._descriptors = descriptors

    def open(self) -> None:
        """Raises OSError, and leaves the descriptors as they are."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _end_line(file)
            for descriptor in self._descriptors:
                os.dup2(file, descriptor)
        finally:
            os.close(file)

    def keep_small(self) -> None:
        """Begin a new file if this one is full; the oldest goes. What the disk refuses is tried again at the next
        call, and the lines go into the present file meanwhile."""
        descriptor = self._descriptors[-1]
        with suppress(OSError):
            if os.fstat(descriptor).st_size < self._max_bytes:
                return
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # of the file itself: it ends when the descriptor gets a new one
            try:
                if self._is_written(descriptor):
                    self._shift()
                self.open()
            except OSError:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                raise

    def _is_written(self, descriptor: int) -> bool:
        """Whether the descriptor's file still has the name: another process may have begun a new one."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        return False

    def _shift(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            older = self._numbered(number)
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(older)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def _end_line(file: int) -> None:
    """A process that was killed, or a full disk, may have left the last line torn."""
    with suppress(OSError):
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            os.write(file, b"\n")

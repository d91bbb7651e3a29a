"""The files of a run that is not finished, beside the results, and who holds it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from elasticvit.errors import DataError


@dataclass(frozen=True)
class RunFiles:
    """Hidden files in the folder of results, named after a run."""

    folder: Path
    name: str

    @property
    def checkpoint(self) -> Path:
        return self._path("checkpoint")

    @property
    def work(self) -> Path:
        """Work done until every step (`Work`)."""
        return self._path("work")

    @property
    def curve(self) -> Path:
        """Milestones reached, one per line."""
        return self._path("curve")

    @property
    def lock(self) -> Path:
        return self._path("lock")

    def discard(self) -> None:
        """Remove all but the lock; for runs whose results are kept."""
        for path in (self.checkpoint, self.work, self.curve):
            path.unlink(missing_ok=True)

    def _path(self, suffix: str) -> Path:
        return self.folder / f".{self.name.replace(' ', '-')}.{suffix}"


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock file now; it does so until the block ends, or the process.

    The file holds the process's id. The lock itself is the kernel's (flock), which ends with the process that holds it,
    however that ends: the file of a dead process is taken over, and a process id that is in use again blocks nobody.

    Raises:
        DataError: the disk refuses.
    """
    try:
        file = _acquire(path)
    except OSError as error:
        raise DataError(f"cannot lock {path}: {error}") from error
    try:
        yield file is not None
    finally:
        if file is not None:
            # Removed while it is held: a process that opened it before finds another file, or none, of this name.
            path.unlink(missing_ok=True)
            file.close()


def holder(path: Path) -> str:
    """The process id in a lock file, or what stands for it."""
    try:
        return path.read_text("utf-8").strip() or "unknown"
    except OSError:
        return "unknown"


def _acquire(path: Path) -> IO[bytes] | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if _is_still(path, file):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
            return file
        file.close()  # its holder removed it between our two calls


def _is_still(path: Path, file: IO[bytes]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False

"""The cache of decoded images: one folder for each set in `ELASTICVIT_CACHE`, complete or absent.

A folder is built under a temporary name and renamed. The process that builds holds a lock that the kernel releases when
the process ends: of several processes that need one set (as in distributed training) one decodes and the others wait.
On a file system without locks all of them decode and the first to finish wins. The cache may be deleted at any time
when no process uses it.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from elasticvit.atomic import atomic_folder, remove_part_folders
from elasticvit.errors import DataError


def cache_folder() -> Path:
    """`ELASTICVIT_CACHE`, else `~/.cache/elasticvit`."""
    return Path(os.environ.get("ELASTICVIT_CACHE") or "~/.cache/elasticvit").expanduser()


def cached(key: str, is_complete: Callable[[Path], bool], build: Callable[[Path], None]) -> Path:
    """The folder of this key; `build` fills an empty one unless there is one that `is_complete`.

    Raises:
        DataError: the cache cannot be written; an incomplete folder is removed.
    """
    home = cache_folder()
    place = home / key
    if is_complete(place):
        return place
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / f".{key}.lock") as is_locked:
            if not is_complete(place):
                if is_locked:
                    remove_part_folders(place)
                with atomic_folder(place, is_complete) as folder:
                    build(folder)
    except OSError as e:
        raise DataError(
            f"cannot keep decoded images in {home}: {e.strerror or e}; free some space there, or set ELASTICVIT_CACHE "
            "to a folder with more"
        ) from e
    return place


def reserve(file: Path, size_bytes: int) -> None:
    """Make a file of this size with its disk blocks allocated. Raises `OSError` if the disk is full."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size_bytes)
        else:
            opened.truncate(size_bytes)


@contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    """Waits until no other process holds the lock; False if the file system has no locks."""
    with lock.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True

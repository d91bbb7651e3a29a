"""Where decoded images are kept: one folder a set in `ELASTICVIT_CACHE`, whole or not at all.

A folder is built beside its place under a passing name and renamed. Who builds holds a lock that the kernel gives back
when its process ends, so that of many processes that want one set (as in distributed training) one decodes and the
others wait; where a file system has no locks all of them decode, the first to finish wins, and nothing is spoilt.
Everything in the cache may be deleted at any time that nobody uses it.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from elasticvit.errors import DataError


def cache_folder() -> Path:
    """`ELASTICVIT_CACHE`, else `~/.cache/elasticvit`."""
    return Path(os.environ.get("ELASTICVIT_CACHE") or "~/.cache/elasticvit").expanduser()


def cached(key: str, whole: Callable[[Path], bool], build: Callable[[Path], None]) -> Path:
    """The folder of this key; where there is none that is `whole`, `build` fills an empty one.

    Raises:
        DataError: the cache cannot be written; what was begun is gone.
    """
    home = cache_folder()
    place = home / key
    if whole(place):
        return place
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home / f".{key}.lock") as alone:
            if not whole(place):
                if alone:
                    _sweep(home, key)
                _build(place, whole, build)
    except OSError as e:
        raise DataError(
            f"cannot keep decoded images in {home}: {e.strerror or e}; free some space there, or set ELASTICVIT_CACHE "
            "to a folder with more"
        ) from e
    return place


def reserve(file: Path, size_bytes: int) -> None:
    """Make a file of this size that has its place on the disk. Raises `OSError` where there is not enough."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size_bytes)
        else:
            opened.truncate(size_bytes)


def _build(place: Path, whole: Callable[[Path], bool], build: Callable[[Path], None]) -> None:
    fresh = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
    fresh.mkdir()
    try:
        build(fresh)
        for path in fresh.iterdir():
            _sync(path)
        if place.exists() and not whole(place):
            shutil.rmtree(place)
        try:
            fresh.rename(place)
        except OSError:
            # Somebody else was as fast, on a file system without locks.
            if not whole(place):
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Waits until no other process holds the lock; False where the file system has none."""
    with lock.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _sweep(home: Path, key: str) -> None:
    """Remove what killed processes left of this set."""
    for path in home.glob(f".{key}-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

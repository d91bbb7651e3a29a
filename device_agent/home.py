"""The agent's home folder: its lock, and the folders in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from device_agent.errors import HomeInUse, HomeUnusable


@dataclass(frozen=True)
class Home:
    """`cache` holds models, `spool` reports that wait, `work` what one job needs while it runs."""

    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def clear_work(self) -> None:
        """Remove the files that a killed agent left of its jobs."""
        for path in self.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def open_home(root: Path) -> Iterator[Home]:
    """The home folder: created if it is missing, and locked inside the `with`. Raises HomeInUse, HomeUnusable."""
    home = Home(root.resolve())
    try:
        for folder in (home.root, home.cache, home.spool, home.work):
            folder.mkdir(parents=True, exist_ok=True)
        lock = (home.root / "agent.lock").open("a+")
    except OSError as error:
        raise HomeUnusable(
            f"{home.root} cannot be used ({error.strerror}): give --home a folder you may write"
        ) from error
    with lock:
        _take(lock, home.root)
        yield home


def _take(lock: IO[str], root: Path) -> None:
    # The kernel drops the lock with its holder, however that ends; the pid in the file is only for people.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        raise HomeInUse(
            f"an agent (pid {holder}) already uses {root}: stop it, or give --home another folder"
        ) from error
    with suppress(OSError):  # a full disk must not keep the agent from delivering what it has
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()

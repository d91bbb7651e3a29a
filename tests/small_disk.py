"""A full disk, without filling one, and a folder that may not be written."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(max_bytes: int) -> Iterator[None]:
    """The kernel lets no file grow past `max_bytes`: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def forbid_writing(folder: Path) -> None:
    """Nobody can make a file in this empty folder from now on."""
    if os.geteuid() == 0:
        folder.rmdir()
        folder.symlink_to("/proc/self")  # where not even root may make a file
    else:
        folder.chmod(0o555)


@contextmanager
def small_filesystem(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A filesystem of its own at `folder`, in memory; skips the test where mounting one is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size_bytes},mode=755", "tmpfs"]
    mounted = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The filesystem of the folder is full to the last byte inside the block."""
    fill = folder / "fill"
    with fill.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with suppress(OSError):
            while True:
                file.write(bytes(1))
    try:
        yield
    finally:
        fill.unlink()

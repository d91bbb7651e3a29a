"""A full disk, without filling one, and a folder that may not be written."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

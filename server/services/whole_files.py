"""Whether stored files still hold what their hash says, read once for each state of a file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from elasticvit.hashing import file_sha256
from server.store.blobs import Blobs


def is_whole(blobs: Blobs, sha256: str) -> bool:
    path = blobs.path(sha256)
    try:
        status = path.stat()
        return _sha256_at(path, status.st_ino, status.st_size, status.st_mtime_ns) == sha256
    except OSError:
        return False


@lru_cache(maxsize=256)
def _sha256_at(file: Path, inode: int, size_bytes: int, changed_ns: int) -> str:
    del inode, size_bytes, changed_ns
    return file_sha256(file)

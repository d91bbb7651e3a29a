"""A supernet file on the disk, read by its header without its weights, and the accuracy table beside it. No torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elasticvit.errors import SupernetFileError
from elasticvit.hashing import file_sha256
from elasticvit.nn.supernet_header import SupernetHeader, read_supernet_header, table_path
from server.errors import BadValue, from_os_error


@dataclass(frozen=True)
class SupernetRef:
    """A supernet file as it is now, by what decides the models that come from it.

    Attributes:
        name, sha256: of its row in the database.
        table_sha256: of the accuracy table beside the file, None without a table.
    """

    name: str
    file: Path
    sha256: str
    table_sha256: str | None = None


def describe(file: Path) -> SupernetHeader:
    """Read the header of a supernet file by `read_supernet_header`, which maps the file and reads no weights.

    Raises:
        BadValue: there is no such regular file, or it is cut off, of another format, or has a damaged header.
        InfraError: the disk refuses.
    """
    try:
        is_file, is_folder = file.is_file(), file.is_dir()
    except OSError as error:
        raise BadValue(f"{file} cannot be read on the server's machine: {error.strerror}") from error
    if is_folder:
        raise BadValue(f"there is no file {file} on the server's machine: it is a folder")
    if not is_file:
        raise BadValue(f"there is no file {file} on the server's machine")
    try:
        return read_supernet_header(file)
    except SupernetFileError as error:
        if isinstance(error.__cause__, OSError):
            raise from_os_error(error.__cause__, str(file)) from error
        raise BadValue(f"this is not a whole supernet file: {error}") from error


def table_sha256(file: Path) -> str | None:
    """The SHA-256 of the accuracy table as it is now; None without a table."""
    try:
        return file_sha256_now(table_path(file))
    except OSError:
        return None


def file_sha256_now(file: Path) -> str:
    """The SHA-256 of a file, read once for each state of it. Raises OSError."""
    status = file.stat()
    return _sha256_at(file, status.st_ino, status.st_size, status.st_mtime_ns)


def start_sha256(file: Path, size_bytes: int) -> str:
    """The SHA-256 of the first bytes of a file, read once for each state of it. Raises OSError."""
    status = file.stat()
    return _start_sha256_at(file, size_bytes, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_at(file: Path, *_state: int) -> str:
    return file_sha256(file)


@lru_cache(maxsize=64)
def _start_sha256_at(file: Path, size_bytes: int, *_state: int) -> str:
    with file.open("rb") as content:
        return hashlib.sha256(content.read(size_bytes)).hexdigest()

"""Files by their SHA-256: `<root>/ab/<sha256>`. A blob is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from server.errors import InfraError, NotFound, TooLarge, from_os_error

PART = ".part-"
CHUNK = 1 << 20
STALE_PART_SECONDS = 3600.0


class Draft:
    """A blob being written. `path` may be read for checks after `flush`; nothing stays unless `keep` is called."""

    def __init__(self, blobs: Blobs, file: BinaryIO, path: Path, max_bytes: int | None) -> None:
        self._blobs = blobs
        self._file = file
        self._digest = hashlib.sha256()
        self._max_bytes = max_bytes
        self.path = path
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append. Raises TooLarge past the limit, DiskFull when there is no space."""
        self.size_bytes += len(chunk)
        if self._max_bytes is not None and self.size_bytes > self._max_bytes:
            raise TooLarge(
                f"the file is larger than the {self._max_bytes / 1e6:g} MB allowed", max_bytes=self._max_bytes
            )
        self._digest.update(chunk)
        self._file.write(chunk)

    def flush(self) -> None:
        self._file.flush()

    def keep(self, expected_sha256: str | None = None) -> str:
        """Make it durable under its hash and return that. Raises InfraError when it is not the expected one."""
        if expected_sha256 not in (None, self.sha256):
            raise InfraError(f"the file has sha256 {self.sha256}, not {expected_sha256}: it was damaged on the way")
        self._file.flush()
        os.fsync(self._file.fileno())
        target = self._blobs.path(self.sha256)
        target.parent.mkdir(exist_ok=True)
        self.path.replace(target)
        _sync_folder(target.parent)
        return self.sha256


class Blobs:
    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the blob lies, if it does."""
        return self.root / sha256[:2] / sha256

    def find(self, sha256: str) -> Path:
        """Raises NotFound."""
        path = self.path(sha256)
        if not path.is_file():
            raise NotFound(f"there is no file with sha256 {sha256}")
        return path

    @contextmanager
    def draft(self, max_bytes: int | None = None) -> Iterator[Draft]:
        """Write a blob in pieces; the part file is gone afterwards, whatever happens. Raises InfraError."""
        part = self.root / f"{PART}{os.getpid()}-{secrets.token_hex(6)}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield Draft(self, file, part, max_bytes)
        except OSError as error:
            raise from_os_error(error, f"the folder {self.root}") from error
        finally:
            part.unlink(missing_ok=True)

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256."""
        with self.draft() as draft:
            draft.write(data)
            return draft.keep()

    def put_file(self, source: Path) -> tuple[str, int]:
        """Store a copy of a file; returns sha256 and size in bytes."""
        with source.open("rb") as file, self.draft() as draft:
            while chunk := file.read(CHUNK):
                draft.write(chunk)
            return draft.keep(), draft.size_bytes

    def remove_stale_parts(self) -> None:
        """Drop what killed processes left; the young ones may belong to a living one."""
        for part in self.root.glob(f"{PART}*"):
            try:
                if time.time() - part.stat().st_mtime > STALE_PART_SECONDS:
                    part.unlink(missing_ok=True)
            except FileNotFoundError:
                continue


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_private(path: Path, text: str) -> None:
    """Write a secret atomically with mode 0600. Raises InfraError."""
    part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """So that the rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

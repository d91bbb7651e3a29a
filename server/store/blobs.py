"""Files by their SHA-256: `<root>/ab/<sha256>`. A blob is there whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elasticvit.atomic import PartFile
from server.errors import NotFound, TooLarge, from_os_error
from server.store.part_files import part_file

CHUNK = 1 << 20


class Draft:
    """A blob that is being written. After `flush` it can be read at `path`; it is removed unless `keep` is called."""

    def __init__(self, blobs: Blobs, part: PartFile, max_bytes: int | None) -> None:
        self._blobs = blobs
        self._part = part
        self._digest = hashlib.sha256()
        self._max_bytes = max_bytes
        self.size_bytes = 0

    @property
    def path(self) -> Path:
        return self._part.path

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
        self._part.file.write(chunk)

    def flush(self) -> None:
        self._part.file.flush()

    def keep(self) -> str:
        """Make it durable under its hash, which is returned."""
        target = self._blobs.path(self.sha256)
        target.parent.mkdir(exist_ok=True)
        self._part.keep(target)
        return self.sha256


class Blobs:
    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the blob is, if it exists."""
        return self.root / sha256[:2] / sha256

    def find(self, sha256: str) -> Path:
        """Raises NotFound."""
        path = self.path(sha256)
        if not path.is_file():
            raise NotFound(f"there is no file with sha256 {sha256}")
        return path

    @contextmanager
    def draft(self, max_bytes: int | None = None) -> Iterator[Draft]:
        """Write a blob in pieces; without `keep` nothing is left of it. Raises InfraError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with part_file(self.root) as part:
                yield Draft(self, part, max_bytes)
        except OSError as error:
            raise from_os_error(error, f"the folder {self.root}") from error

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256."""
        with self.draft() as draft:
            draft.write(data)
            return draft.keep()


def write_private(path: Path, text: str) -> None:
    """Write a secret with mode 0600; the file appears whole or not at all. Raises InfraError."""
    try:
        with part_file(path.parent, mode=0o600) as part:
            part.file.write(text.encode())
            part.keep(path)
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; `target` appears whole or not at all. Raises OSError."""
    with source.open("rb") as file, part_file(target.parent) as part:
        shutil.copyfileobj(file, part.file, CHUNK)
        part.keep(target)

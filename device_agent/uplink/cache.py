"""Model files on disk by their SHA-256. A file in the folder is complete, or it is not there."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from device_agent.cancellation import Cancellation
from device_agent.errors import InfraFault
from device_agent.files import remove_parts, written_whole
from server.wire import BlobRef

Download = Callable[[BlobRef], AbstractContextManager[Iterator[bytes]]]
LOCK_POLL_SECONDS = 0.1


class CorruptDownload(InfraFault):
    """The bytes that were downloaded are not those of the file."""


class Cache:
    """Shared by all devices of an agent. When `cap_bytes` would be exceeded, the least recently used files go first.

    Each file has a lock of its own while it is checked and downloaded; files do not wait for each other.
    """

    def __init__(self, folder: Path, cap_bytes: int, download: Download) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._download = download
        self._lock = threading.Lock()  # for the fields below and for removing files; never held during a download
        self._held: Counter[str] = Counter()
        self._file_locks: dict[str, threading.Lock] = {}
        self._reserved_bytes: dict[str, int] = {}
        remove_parts(folder)

    @contextmanager
    def hold(self, blob: BlobRef, cancellation: Cancellation) -> Iterator[Path]:
        """The file of a blob, downloaded if it is missing or damaged; it is not removed inside the `with`.

        Raises CorruptDownload, InfraFault (disk), Cancelled, and what the download raises.
        """
        with self._counted(blob.sha256) as file_lock:
            while not file_lock.acquire(timeout=LOCK_POLL_SECONDS):
                cancellation.check()
            try:
                path = self._get(blob, cancellation)
            except OSError as error:
                raise InfraFault(
                    f"{self._folder} cannot be used ({error.strerror}): free space there or repair the disk"
                ) from error
            finally:
                file_lock.release()
            yield path

    @contextmanager
    def _counted(self, sha256: str) -> Iterator[threading.Lock]:
        """The lock of a file, which is not removed inside the `with`."""
        with self._lock:
            self._held[sha256] += 1
            file_lock = self._file_locks.setdefault(sha256, threading.Lock())
        try:
            yield file_lock
        finally:
            with self._lock:
                self._held[sha256] -= 1
                if self._held[sha256] == 0:
                    del self._held[sha256], self._file_locks[sha256]

    def _get(self, blob: BlobRef, cancellation: Cancellation) -> Path:
        path = self._folder / blob.sha256
        if path.is_file():
            if _sha256(path) == blob.sha256:
                os.utime(path)
                return path
            path.unlink()
        with self._reserved(blob), written_whole(path) as file:
            self._fill(file, blob, cancellation)
        return path

    def _fill(self, file: IO[bytes], blob: BlobRef, cancellation: Cancellation) -> None:
        digest, size = hashlib.sha256(), 0
        with self._download(blob) as chunks:
            for chunk in chunks:
                cancellation.check()
                size += len(chunk)
                if size > blob.size_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
        if size != blob.size_bytes:
            sent = "more" if size > blob.size_bytes else f"{size}"
            raise CorruptDownload(
                f"{blob.url} should have {blob.size_bytes} bytes and has {sent}: repair the files of the server"
            )
        if digest.hexdigest() != blob.sha256:
            raise CorruptDownload(
                f"{blob.url} should have sha256 {blob.sha256} and has {digest.hexdigest()}: "
                "repair the files of the server"
            )

    @contextmanager
    def _reserved(self, blob: BlobRef) -> Iterator[None]:
        """Room for a file that is being downloaded."""
        with self._lock:
            self._make_room(blob.size_bytes)
            self._reserved_bytes[blob.sha256] = blob.size_bytes
        try:
            yield
        finally:
            with self._lock:
                del self._reserved_bytes[blob.sha256]

    def _make_room(self, size_bytes: int) -> None:
        # Unfinished files are counted by what is reserved for them.
        files = [path for path in self._folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        used_bytes = sum(path.stat().st_size for path in files) + sum(self._reserved_bytes.values())
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns):
            if used_bytes + size_bytes <= self._cap_bytes:
                return
            if self._held[path.name] == 0:
                used_bytes -= path.stat().st_size
                with suppress(FileNotFoundError):
                    path.unlink()
        if used_bytes + size_bytes > self._cap_bytes:
            raise InfraFault(
                f"the agent's cache of {self._cap_bytes} bytes has no room for a file of {size_bytes}: "
                "raise ELASTICVIT_AGENT_CACHE_MB"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

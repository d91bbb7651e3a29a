"""Model files by their sha256, on disk. A file in the folder is whole, or it is not there."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from device_agent.cancellation import Cancellation
from device_agent.errors import InfraFault
from device_agent.files import remove_parts, sync_folder
from server.wire import BlobRef

Download = Callable[[BlobRef], AbstractContextManager[Iterator[bytes]]]
READ_BYTES = 1 << 20


class CorruptDownload(InfraFault):
    """The bytes that came are not the file that was named."""


class Cache:
    """Shared by all devices of an agent; the longest unused files go first when `cap_bytes` would be passed."""

    def __init__(self, folder: Path, cap_bytes: int, download: Download) -> None:
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._download = download
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        remove_parts(folder)

    @contextmanager
    def hold(self, blob: BlobRef, cancellation: Cancellation) -> Iterator[Path]:
        """The file of a blob, downloaded where it is missing or damaged; it stays there inside the `with`.

        Raises CorruptDownload, InfraFault (disk), Cancelled, and what the download raises.
        """
        with self._lock:
            try:
                path = self._get(blob, cancellation)
            except OSError as error:
                raise InfraFault(f"{self._folder} cannot be used ({error.strerror}): free space or mend it") from error
            self._held[blob.sha256] += 1
        try:
            yield path
        finally:
            with self._lock:
                self._held[blob.sha256] -= 1

    def _get(self, blob: BlobRef, cancellation: Cancellation) -> Path:
        path = self._folder / blob.sha256
        if path.is_file():
            if _sha256(path) == blob.sha256:
                os.utime(path)
                return path
            path.unlink()
        self._make_room(blob.size_bytes)
        part = self._folder / f".{blob.sha256}.part"
        try:
            self._fill(part, blob, cancellation)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(self._folder)
        return path

    def _fill(self, part: Path, blob: BlobRef, cancellation: Cancellation) -> None:
        digest, size = hashlib.sha256(), 0
        with self._download(blob) as chunks, part.open("wb") as file:
            for chunk in chunks:
                cancellation.check()
                size += len(chunk)
                if size > blob.size_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if size != blob.size_bytes:
            more = "more" if size > blob.size_bytes else f"{size}"
            raise CorruptDownload(
                f"{blob.url} should have {blob.size_bytes} bytes and gave {more}: mend the server's files"
            )
        if digest.hexdigest() != blob.sha256:
            raise CorruptDownload(
                f"{blob.url} should have sha256 {blob.sha256} and has {digest.hexdigest()}: mend the server's files"
            )

    def _make_room(self, size_bytes: int) -> None:
        files = [path for path in self._folder.iterdir() if path.is_file()]
        used_bytes = sum(path.stat().st_size for path in files)
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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

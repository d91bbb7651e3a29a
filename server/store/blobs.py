"""Files by their SHA-256: `<root>/ab/<sha256>`. A blob is there whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from elasticvit.atomic import PartFile, synchronise
from elasticvit.hashing import file_sha256
from server.errors import DamagedFile, NotFound, TooLarge, from_os_error
from server.store.part_files import part_file

log = structlog.get_logger()
CHUNK = 1 << 20
MAX_KNOWN = 100_000


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
        """Put what was written on the disk. Raises InfraError.

        A large file takes a moment; so `keep`, which may be called while a transaction is open, only renames it.
        """
        try:
            synchronise(self._part.file)
        except OSError as error:
            raise from_os_error(error, f"the folder {self._blobs.root}") from error

    def keep(self) -> str:
        """Make it durable under its hash, which is returned."""
        target = self._blobs.path(self.sha256)
        target.parent.mkdir(exist_ok=True)
        self._part.keep(target)
        return self.sha256


@dataclass(frozen=True)
class _State:
    """What changes when a file is written, truncated or replaced."""

    inode: int
    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> _State:
        """Raises OSError."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


class Blobs:
    """The store. A blob is checked against its hash when it is first used, and again when its file has changed.

    A damaged one is moved to the folder `damaged` in the store, so that the same bytes can be stored again.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._whole: OrderedDict[Path, _State] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def damaged_folder(self) -> Path:
        return self.root / "damaged"

    def path(self, sha256: str) -> Path:
        """Where the blob is, if it exists."""
        return self.root / sha256[:2] / sha256

    def find(self, sha256: str) -> Path:
        """The file of a blob, which has this hash. Raises NotFound; DamagedFile, and then the file was set aside."""
        path = self.path(sha256)
        try:
            if not path.is_file():
                raise NotFound(f"there is no file with sha256 {sha256}")
            state = _State.of(path)
            if not self._is_known(path, state):
                self._check(path, sha256, state)
        except OSError as error:
            raise from_os_error(error, f"the file {path}") from error
        return path

    def is_whole(self, sha256: str) -> bool:
        """Whether `find` would return it. Raises InfraError when the disk refuses to be read."""
        try:
            self.find(sha256)
        except (NotFound, DamagedFile):
            return False
        return True

    def _is_known(self, path: Path, state: _State) -> bool:
        with self._lock:
            return self._whole.get(path) == state

    def _check(self, path: Path, sha256: str, state: _State) -> None:
        if file_sha256(path) != sha256:
            aside = set_aside(path, self.damaged_folder, state.inode)
            log.error("a stored file is damaged", sha256=sha256, moved_to=str(aside))
            raise DamagedFile(
                f"the stored file {sha256} was damaged, and was set aside: export or upload it again; "
                "`elasticvit fsck` lists everything that is damaged"
            )
        with self._lock:
            self._whole[path] = state
            self._whole.move_to_end(path)
            while len(self._whole) > MAX_KNOWN:
                self._whole.popitem(last=False)

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


def set_aside(path: Path, folder: Path, inode: int | None = None) -> Path:
    """Move a damaged file to `folder`, as `NAME.damaged-N`; returns where it is now.

    With `inode`, a file that was replaced meanwhile stays. Raises InfraError.
    """
    try:
        folder.mkdir(exist_ok=True)
        number = 1
        while (target := folder / f"{path.name}.damaged-{number}").exists():
            number += 1
        if inode is None or path.stat().st_ino == inode:
            path.rename(target)
    except FileNotFoundError:
        pass  # another process was faster
    except OSError as error:
        raise from_os_error(error, f"the damaged file {path}, which is to be moved to {folder},") from error
    return target


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

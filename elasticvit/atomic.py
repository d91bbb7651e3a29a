"""Files and folders that appear whole or not at all: the one writer of this package and of the server.

Data goes to a hidden file in the target's folder, is synchronised to the disk, and gets its name by a rename. A reader
sees the old file or the new one, also after a power cut; a writer that fails leaves nothing behind.

`part_file` and `atomic_folder` raise `OSError`. The other functions take `error`, the type that the caller raises where
the disk refuses; without it, `OSError` comes through as it is, for callers with a message of their own.
"""

import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from elasticvit.errors import ExportError

ErrorType = Callable[[str], Exception]
_READABLE = 0o666  # before the umask, as `open` has it
_FOLDER_DIGITS = 8


def write_atomically(
    path: Path,
    data: bytes,
    *,
    error: ErrorType | None = None,
    mode: int = _READABLE,
    parents: bool = False,
    single_writer: bool = False,
) -> None:
    """Write a file, or leave what was there. Arguments and errors as of `atomic_file`."""
    with atomic_file(path, error=error, mode=mode, parents=parents, single_writer=single_writer) as file:
        file.write(data)


def write_files(
    files: Mapping[Path, bytes], *, error: ErrorType | None = None, parents: bool = False, single_writer: bool = False
) -> None:
    """Write several files: all of them, or none if the disk is full or read-only.

    All are on the disk before the first gets its name, in the order of `files`. Arguments and errors as of
    `atomic_file`.
    """
    with ExitStack() as stack:
        # Files are renamed as the stack unwinds, the last one first.
        for path, data in reversed(list(files.items())):
            file = stack.enter_context(atomic_file(path, error=error, parents=parents, single_writer=single_writer))
            with _translated(path, error):
                file.write(data)
                synchronise(file)


@contextmanager
def atomic_file(
    path: Path,
    *,
    error: ErrorType | None = None,
    mode: int = _READABLE,
    parents: bool = False,
    single_writer: bool = False,
) -> Iterator[BinaryIO]:
    """A binary file that gets the name `path` when the block ends, and disappears if the block raises.

    Args:
        error: raised, with a message, for an `OSError`; without it, the `OSError` itself. An `OSError` of the block is
            taken for the file's.
        mode: permissions, less the umask.
        parents: make missing folders.
        single_writer: call the hidden file `.NAME.part` and overwrite one that a killed process left, so that there is
            never more than one. Only for a path that no two processes write at a time.

    Raises:
        OSError, or `error`: the disk refuses, the folder is missing, or `path` names a folder, device or pipe.
    """
    with _translated(path, error):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        why = _refusal(path)
    if why is not None:
        raise (error or OSError)(_cannot_write(path, why))
    hidden = path.name if path.name.startswith(".") else f".{path.name}"
    part = path.with_name(f"{hidden}.part" if single_writer else f"{hidden}.{secrets.token_hex(8)}")
    with _translated(path, error), part_file(part, mode, overwrite=single_writer) as unnamed:
        yield unnamed.file
        unnamed.keep(path)


@dataclass
class PartFile:
    """An open file under a temporary name, `path`."""

    file: BinaryIO
    path: Path
    _kept: bool = field(default=False, init=False)

    @property
    def is_kept(self) -> bool:
        return self._kept

    def keep(self, target: Path) -> None:
        """Synchronise it and rename it to `target`, on the same disk; an older file is replaced. Raises `OSError`."""
        synchronise(self.file)
        self.path.replace(target)
        self._kept = True
        _synchronise_path(target.parent)


@contextmanager
def part_file(path: Path, mode: int = _READABLE, *, overwrite: bool = False) -> Iterator[PartFile]:
    """A new file under a temporary name, for callers that learn its own name late; removed at the end unless kept.

    Args:
        mode: permissions, less the umask.
        overwrite: a file of this name is overwritten. Without it, one raises `FileExistsError`.

    Raises:
        OSError: the disk refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if overwrite else os.O_EXCL)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        part = PartFile(file, path)
        try:
            yield part
        finally:
            if not part.is_kept:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, is_complete: Callable[[Path], bool] = Path.is_dir) -> Iterator[Path]:
    """An empty folder that gets the name `path` when the block ends, and disappears if the block raises.

    A folder `path` that `is_complete` by then stays as it is, because another process was faster; one that is not is
    removed first.

    Raises:
        OSError: the disk refuses.
    """
    part = path.with_name(f".{path.name}-{secrets.token_hex(_FOLDER_DIGITS // 2)}")
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.rglob("*"):
            _synchronise_path(file)
        if path.exists() and not is_complete(path):
            shutil.rmtree(path)
        try:
            part.rename(path)
        except OSError:
            if not is_complete(path):
                raise
        _synchronise_path(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_part_folders(path: Path) -> None:
    """Remove what killed writers of the folder `path` left. Only for a caller who knows that no other writes it."""
    for part in path.parent.glob(f".{glob.escape(path.name)}-" + "[0-9a-f]" * _FOLDER_DIGITS):
        shutil.rmtree(part, ignore_errors=True)


def check_out(out: Path, inputs: Iterable[Path] = (), error: ErrorType = ExportError, *, parents: bool = False) -> None:
    """Refuse an output path that cannot be written, before any work is done.

    With `parents` the folder may be missing, for a writer that makes it.

    Raises:
        ExportError, or `error`: it names no file, a folder, a device, a pipe or one of the inputs, or its folder is
            missing.
    """
    with _translated(out, error):
        why = None if parents and not out.parent.exists() else _refusal(out)
        if why is None and any(path.exists() and out.exists() and out.samefile(path) for path in inputs):
            why = "it is one of the inputs; give another name"
    if why is not None:
        raise error(_cannot_write(out, why))


def make_folder(path: Path, error: ErrorType = ExportError) -> None:
    """Make a folder and its parents. Raises `ExportError`, or `error`, if the disk refuses or a file has the name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise error(f"cannot make the folder {path}: {refused}") from refused


def _refusal(path: Path) -> str | None:
    """Why a path cannot be written; None if nothing is known against it."""
    if not path.name:
        return "it names no file"
    if path.is_dir():
        return "it is a folder; give a file name"
    if path.exists() and not path.is_file():
        return "it is a device or a pipe; give a file name"
    return None if path.parent.is_dir() else f"there is no folder {path.parent}"


def _cannot_write(path: Path, why: object) -> str:
    return f"cannot write {path if path.name else 'a file without a name'}: {why}; nothing was written"


@contextmanager
def _translated(path: Path, error: ErrorType | None) -> Iterator[None]:
    try:
        yield
    except OSError as refused:
        if error is None:
            raise
        raise error(_cannot_write(path, refused)) from refused


def _synchronise_path(path: Path) -> None:
    """Of a folder: make the renames in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def synchronise(file: BinaryIO) -> None:
    """Put on the disk what was written to the file so far. Raises `OSError`, for instance on a full disk."""
    file.flush()
    os.fsync(file.fileno())

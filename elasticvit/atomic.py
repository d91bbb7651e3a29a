"""Files that appear whole or not at all: the one writer of this package, for others to use too.

Data goes to a hidden file in the target's folder, is synchronised to the disk, and gets its name by a rename. A reader
sees the old file or the new one, also after a power cut; a writer that fails leaves nothing behind.

Every function takes `error`, the type that the caller raises where the disk refuses. Without it, `OSError` comes
through as it is, for callers with a message of their own.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from elasticvit.errors import ExportError

ErrorType = Callable[[str], Exception]
_READABLE = 0o666  # before the umask, as `open` has it


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


def copy_atomically(source: Path, target: Path, *, error: ErrorType | None = None, parents: bool = False) -> None:
    """Copy the content of a file, in pieces. Arguments and errors as of `atomic_file`."""
    with _translated(target, error), source.open("rb") as opened, atomic_file(target, parents=parents) as file:
        shutil.copyfileobj(opened, file, 1 << 20)


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
                _synchronise(file)


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
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if single_writer else os.O_EXCL)
    with _translated(path, error):
        try:
            with os.fdopen(os.open(part, flags, mode), "wb") as file:
                yield file
                _synchronise(file)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_out(out: Path, inputs: Iterable[Path] = (), error: ErrorType = ExportError) -> None:
    """Refuse an output path that cannot be written, before any work is done.

    Raises:
        ExportError, or `error`: it names no file, a folder, a device, a pipe or one of the inputs, or its folder is
            missing.
    """
    with _translated(out, error):
        why = _refusal(out)
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


def _synchronise(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

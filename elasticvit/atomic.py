"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from elasticvit.errors import ExportError


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write all of them, or, on a full or read-only disk, none: readers see the old files or the new ones.

    Every file is on the disk under a passing name before the first gets its own.

    Raises:
        ExportError: the disk refuses, a folder is missing, or a name is a folder's; nothing is left behind.
    """
    for path in files:
        check_out(path)
    try:
        with ExitStack() as stack:
            parts = [(_written_part(path, data, stack), path) for path, data in files.items()]
            for part, path in parts:
                part.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {next(iter(files))}: {error}; nothing was written") from error


def check_out(out: Path, inputs: Iterable[Path] = ()) -> None:
    """Whether a file may be written there; to be asked before work begins, too.

    Raises:
        ExportError: it names no file, or something that is none, or one of the inputs, or its folder is missing.
    """
    why = None
    if not out.name:
        why = "it names no file"
    elif out.is_dir():
        why = "it is a folder; give a file name"
    elif out.exists() and not out.is_file():
        why = "it is a device or a pipe; give a file name"
    elif not out.parent.is_dir():
        why = f"there is no folder {out.parent}"
    elif any(each.exists() and out.exists() and out.samefile(each) for each in inputs):
        why = "it is what is read; give another name"
    if why is not None:
        raise ExportError(f"cannot write {out or 'a file without a name'}: {why}; nothing was written")


def make_folder(path: Path) -> None:
    """Raises `ExportError` where the disk refuses, or a file has the name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot make the folder {path}: {error}") from error


def _written_part(path: Path, data: bytes, stack: ExitStack) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with part.open("xb") as file:
        stack.callback(part.unlink, missing_ok=True)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return part

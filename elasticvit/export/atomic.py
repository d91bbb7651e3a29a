"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from elasticvit.errors import ExportError


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write all of them, or, on a full or read-only disk, none: readers see the old files or the new ones.

    Every file is on the disk under a passing name before the first gets its own.

    Raises:
        ExportError: the disk refuses, a folder is missing, or a name is a folder's; nothing is left behind.
    """
    try:
        for path in files:
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder; give a file name")
            if not path.parent.is_dir():
                raise FileNotFoundError(f"there is no folder {path.parent}")
        with ExitStack() as stack:
            parts = [(_written_part(path, data, stack), path) for path, data in files.items()]
            for part, path in parts:
                part.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {next(iter(files))}: {error}; nothing was written") from error


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

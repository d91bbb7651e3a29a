"""Paths that a user gives for a set of images: is it a folder, and if it is a file, what is to be done with it?"""

from pathlib import Path

from elasticvit.data.readers.imagefolder import ARCHIVES
from elasticvit.data.readers.left_out import printable
from elasticvit.data.readers.webdataset import SHARDS
from elasticvit.errors import DataError

READ_IN_FOLDERS = (".parquet", *(f".{ending}" for ending in SHARDS))


def is_folder(path: Path) -> bool:
    """Raises `DataError` for a name that is too long, or a folder that may not be looked into."""
    try:
        return path.is_dir()
    except OSError as e:
        raise DataError(f"cannot look for the folder {printable(path)}: {e.strerror}") from e


def check_no_file(path: Path) -> None:
    """Raises `DataError`, with what to do, if there is a file at this path."""
    if not path.is_file():
        return
    if path.name.lower().endswith(READ_IN_FOLDERS):
        advice = "put it into a folder of its own, or unpack it if it is packed class folders, and give the folder"
    elif path.suffix.lower() in ARCHIVES:
        advice = "unpack it into a folder, and give that folder"
    else:
        advice = "give a folder of images"
    raise DataError(f"{printable(path)} is a file: {advice}")

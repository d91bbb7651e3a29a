"""Image folders in their usual forms, decoded once into files that are mapped into memory.

Reading order: left_out, source, imagefolder, parquet, webdataset, decode, pool, cache, build. Nothing here imports
torch, so that decoding processes start quickly.
"""

from pathlib import Path

from elasticvit.data.readers.imagefolder import CONTAINERS, NoClassFoldersError, is_image, open_image_folder
from elasticvit.data.readers.left_out import LeftOut, by_ending, printable
from elasticvit.data.readers.parquet import open_parquet
from elasticvit.data.readers.source import Source
from elasticvit.data.readers.webdataset import SHARDS, open_webdataset
from elasticvit.errors import DataError


def open_source(folder: Path) -> Source:
    """The images of a folder, by what lies in it or one folder deeper: Parquet files, else a folder a class, else tar
    shards. Raises `DataError` if it holds none of these, or they cannot be used."""
    if not folder.is_dir():
        raise DataError(f"no folder {printable(folder)}")
    parquet, shards = _files(folder, ("parquet",)), _files(folder, SHARDS)
    if parquet:
        images, left_out = _beside(folder, parquet)
        return open_parquet(folder, parquet, images, left_out)
    try:
        return open_image_folder(folder)
    except NoClassFoldersError as e:
        if shards:
            images, left_out = _beside(folder, shards)
            for image in images:
                left_out.add("images outside of shards", printable(image.relative_to(folder).as_posix()))
            return open_webdataset(folder, shards, left_out)
        raise DataError(f"{folder} holds no *.parquet, no *.tar and no folder a class with images: {e}") from e


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    patterns = [f"{where}*.{ending}" for ending in endings for where in ("", "*/")]
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in files if path.is_file() and not path.name.startswith("."))


def _beside(folder: Path, used: list[Path]) -> tuple[list[Path], LeftOut]:
    """Image files at any depth, and what may hold more images but is not among the files `used`."""
    images, left_out, known = [], LeftOut(), set(used)
    for path in sorted(folder.rglob("*")):
        if path in known or path.name.startswith(".") or not path.is_file():
            continue
        if is_image(path.name):
            images.append(path)
        elif path.suffix.lower() in CONTAINERS:
            reason = "deeper Parquet files" if path.suffix.lower() == ".parquet" else by_ending(path.name)
            left_out.add(reason, printable(path.relative_to(folder).as_posix()))
    return images, left_out

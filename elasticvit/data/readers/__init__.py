"""Image folders as people have them, decoded once into files that are mapped into memory.

Reading order: source, imagefolder, parquet, webdataset, decode, pool, cache, build. Nothing here imports torch, so
that decoding processes start quickly.
"""

from pathlib import Path

from elasticvit.data.readers.imagefolder import open_image_folder
from elasticvit.data.readers.parquet import open_parquet
from elasticvit.data.readers.source import Source
from elasticvit.data.readers.webdataset import open_webdataset
from elasticvit.errors import DataError


def open_source(folder: Path) -> Source:
    """The images of a folder, by what lies in it or one folder deeper: Parquet files, else a folder a class, else tar
    shards. Raises `DataError` where it holds none of these, or they cannot be used."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    parquet, shards = (sorted({*folder.glob(f"*.{end}"), *folder.glob(f"*/*.{end}")}) for end in ("parquet", "tar"))
    if parquet:
        return open_parquet(folder, parquet)
    try:
        return open_image_folder(folder)
    except DataError as e:
        if shards:
            return open_webdataset(folder, shards)
        raise DataError(f"{folder} holds no *.parquet, no *.tar and no folder a class with images: {e}") from e

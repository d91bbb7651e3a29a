"""Image folders in their usual forms, decoded once into files that are mapped into memory.

Reading order: left_out, source, annotations, imagefolder, parquet, webdataset, decode, pool, cache, build. Nothing here
imports torch, so that decoding processes start quickly.
"""

from pathlib import Path

from elasticvit.data.readers.imagefolder import ARCHIVES, CONTAINERS, NoClassFoldersError, is_image, open_image_folder
from elasticvit.data.readers.left_out import LeftOut, by_ending, listed, printable
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
        nothing = f"{printable(folder)} holds no *.parquet, no *.tar and no folder a class with images"
        raise DataError(f"{nothing}: it {_held(folder)}; {e}") from e


def _held(folder: Path) -> str:
    """What lies in a folder that cannot be read, and what to do if it is packed."""
    archives = [path for path in _files(folder, ("*",)) if path.suffix.lower() in ARCHIVES]
    if archives:
        advice = "unpack it" if len(archives) == 1 else "unpack them"
        return f"holds {listed([path.relative_to(folder) for path in archives])}: {advice}"
    names = [Path(path.name) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return f"holds {listed(names)}" if names else "is empty"


def _files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files with these endings, also in capitals."""
    patterns = [f"{where}*.{_in_any_case(ending)}" for ending in endings for where in ("", "*/")]
    files = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in files if path.is_file() and not path.name.startswith("."))


def _in_any_case(ending: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in ending)


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

"""Archives and other files that hold images but are no set by themselves: named, with what to do."""

from pathlib import Path

import pytest

from elasticvit.data.image_set import load_folder, load_named
from elasticvit.errors import DataError
from tests.elasticvit.data.image_files import encoded, image, image_folder, parquet, shard


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("photos.zip", "unpack it into a folder"),
        ("photos.tar.xz@64", "unpack it into a folder"),
        ("photos.npz", "give a folder of images"),
        ("cat.jpg", "give a folder of images"),
        ("photos.tar", "put it into a folder of its own"),
        ("PHOTOS.TAR.GZ", "put it into a folder of its own"),
        ("photos.parquet", "put it into a folder of its own"),
    ],
)
def test_a_file_is_not_an_unknown_name(tmp_path: Path, name: str, advice: str) -> None:
    file = name.partition("@")[0]
    (tmp_path / file).write_bytes(b"?")
    with pytest.raises(DataError, match=rf"^{file} is a file: {advice}"):
        load_named(name)
    with pytest.raises(DataError, match=rf"{file} is a file: {advice}"):
        load_named(str(tmp_path / name))


@pytest.mark.parametrize("file", ["photos.zip", "photos.tar.xz", "photos.TAR.BZ2", "photos.tar.zst", "a/photos.7z"])
def test_a_folder_of_archives_only_names_them(tmp_path: Path, file: str) -> None:
    place = tmp_path / "photos" / file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"?")
    with pytest.raises(DataError, match=rf"holds {file}: unpack it"):
        load_folder(tmp_path / "photos")


def test_a_folder_of_other_files_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"no folder a class with images: it is empty"):
        load_folder(tmp_path / "photos")
    for i in range(5):
        (tmp_path / "photos" / f"{i}.heic").write_bytes(b"?")
    with pytest.raises(DataError, match=r"it holds 0\.heic, 1\.heic, 2\.heic and 2 more"):
        load_folder(tmp_path / "photos")


def test_endings_in_capitals_are_endings(tmp_path: Path) -> None:
    parquet(tmp_path / "a" / "TRAIN.PARQUET", [0, 1] * 10)
    shard(tmp_path / "b" / "TRAIN.TAR", [{"png": encoded(image(i)), "cls": str(i % 2).encode()} for i in range(20)])
    for folder in ("a", "b"):
        assert len(load_folder(tmp_path / folder).train) == 16


@pytest.mark.parametrize(
    "ending",
    ["tar.bz2", "tbz2", "txz", "tar.xz", "tar.zst", "zst", "7z", "rar", "arrow", "h5", "npz", "tfrecord", "ZIP"],
)
def test_an_archive_beside_class_folders_is_reported(tmp_path: Path, ending: str) -> None:
    folder = image_folder(tmp_path / "photos", 10)
    (folder / f"more.{ending}").write_bytes(b"?")
    (folder / "readme.md").write_text("nobody's image")
    skipped = load_folder(folder).skipped or ""
    assert skipped.endswith(f": 1 (more.{ending})") and "readme" not in skipped

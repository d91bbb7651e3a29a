"""Files that are not what they seem to be: each is skipped with a reason, or refused with a sentence that names it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elasticvit.data.image_set import load_folder
from elasticvit.errors import DataError
from tests.elasticvit.data.image_files import encoded, image, image_folder, parquet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "cache"))


# Files and folders


@pytest.mark.parametrize("target", ["loop.png", "gone.png"])
def test_a_link_that_leads_nowhere_is_skipped(tmp_path: Path, target: str) -> None:
    folder = image_folder(tmp_path / "bugs", 20)
    (folder / "ant" / "loop.png").symlink_to(target)
    skipped = load_folder(folder).skipped or ""
    assert skipped.startswith("1 of 41 images were skipped: ant/loop.png (")


# Parquet files


def _parquet_of(folder: Path, images: Any) -> Path:  # noqa: ANN401 - values of any type
    folder.mkdir()
    labels = [i % 2 for i in range(len(images))]
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "train.parquet")
    return folder


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ([[0, 255], [255, 0]], r"list<element: list<element: int64>>"),
        ({"array": [0, 255]}, r"struct<array: list<element: int64>>"),
        ({"bytes": None, "path": None}, r"struct<bytes: null, path: null>"),
        ({"bytes": [1, 2], "path": None}, r"struct<bytes: list<element: int64>, path: null>"),
        (7, "int64"),
    ],
)
def test_a_column_of_something_else_than_images_is_named(tmp_path: Path, value: object, held: str) -> None:
    folder = _parquet_of(tmp_path / "bugs", [value] * 20)
    with pytest.raises(DataError, match=rf"column 'image' of .* holds {held}, not encoded images or paths"):
        load_folder(folder)


def test_a_column_whose_images_are_all_missing_is_named(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    folder = _parquet_of(tmp_path / "bugs", pa.array([{"bytes": None, "path": None}] * 20, kind))
    with pytest.raises(DataError, match=r"column 'image' of .*train\.parquet has neither bytes nor a path in any row"):
        load_folder(folder)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
def test_a_column_of_plain_bytes_is_read(tmp_path: Path, kind: Any) -> None:  # noqa: ANN401 - pyarrow has no types
    folder = _parquet_of(tmp_path / "bugs", pa.array([encoded(image(i)) for i in range(20)], pa.binary()).cast(kind))
    assert len(load_folder(folder).train) == 16


def test_parquet_files_without_rows_hold_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.parquet holds no images"):
        load_folder(parquet(tmp_path / "bugs" / "train.parquet", []).parent)


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "loop"])
def test_a_path_that_cannot_be_looked_up_is_a_missing_file(tmp_path: Path, path: str) -> None:
    folder = _parquet_of(tmp_path / "bugs", [{"bytes": None, "path": path}] * 20)
    (folder / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="holds paths of images and no bytes, and there is no file"):
        load_folder(folder)


def test_one_path_that_cannot_be_looked_up_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "bugs"
    paths = [f"{i}.png" for i in range(38)] + ["a" * 5000, "a\0b"]
    _parquet_of(folder, [{"bytes": None, "path": path} for path in paths])
    for i in range(38):
        (folder / f"{i}.png").write_bytes(encoded(image(i)))
    skipped = load_folder(folder).skipped or ""
    assert skipped.startswith("2 of 40 images were skipped: train.parquet row 38, aaa")

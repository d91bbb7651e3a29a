"""Files that are not what they seem to be: each is skipped with a reason, or refused with a sentence that names it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elasticvit.data.image_set import load_folder
from elasticvit.errors import DataError
from tests.elasticvit.data.image_files import encoded, image, image_folder, parquet, shard


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


def test_a_link_to_a_folder_above_is_no_class(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    (folder / "here").symlink_to(".")
    (folder / "above").symlink_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    image_folder(tmp_path / "elsewhere", 10, ["cow"], start=50)
    (folder / "cow").symlink_to(tmp_path / "elsewhere" / "cow")
    data = load_folder(folder)
    assert data.class_names == ("ant", "bee", "cow")
    assert data.skipped == "not used: links to folders above: 2 (above, here)"


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
    paths = [f"{i}.png" for i in range(60)] + ["a" * 5000, "a\0b", "loop"]
    _parquet_of(folder, [{"bytes": None, "path": path} for path in paths])
    (folder / "loop").symlink_to("loop")
    for i in range(60):
        (folder / f"{i}.png").write_bytes(encoded(image(i)))
    skipped = load_folder(folder).skipped or ""
    assert skipped.startswith("3 of 63 images were skipped: train.parquet row 60, aaa") and len(skipped) < 1000


# Texts of others

BOM = b"\xef\xbb\xbf"


def _samples(label: str, contents: list[bytes]) -> list[dict[str, bytes]]:
    return [{"png": encoded(image(i)), label: content} for i, content in enumerate(contents)]


@pytest.mark.parametrize("label", ["cls", "json"])
def test_texts_may_begin_with_a_byte_order_mark(tmp_path: Path, label: str) -> None:
    folder = tmp_path / "bugs"
    shard(folder / "0.tar", _samples(label, [BOM + b"0", BOM + b"1"] * 10))
    (folder / "labels.json").write_bytes(BOM + b'["ant", "bee"]')
    data = load_folder(folder)
    assert (data.class_names, data.skipped) == (("ant", "bee"), None)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5000, '{"0": "ant", "1": Infinity}', '"cat"', "7", '[{"label": Infinity}]']
)
def test_class_names_that_are_no_list_are_refused(tmp_path: Path, text: str) -> None:
    folder = parquet(tmp_path / "bugs" / "train.parquet", [0, 1, 2] * 10).parent
    (folder / "labels.json").write_text(text)
    with pytest.raises(DataError, match=r"labels\.json is not a list of class names"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("label", "content"),
    [("cls", b"caf\xe9"), ("cls", b"9" * 5000), ("json", b"[" * 100_000), ("json", b"9" * 5000), ("json", b"caf\xe9")],
)
def test_labels_that_cannot_be_read_are_counted(tmp_path: Path, label: str, content: bytes) -> None:
    folder = tmp_path / "bugs"
    shard(folder / "0.tar", _samples(label, [b"0", b"1", content] * 10))
    skipped = load_folder(folder).skipped or ""
    assert f"labels that cannot be read: 10 (0.tar 000002.{label}, " in skipped


def test_deep_metadata_of_parquet_files_is_no_list_of_names(tmp_path: Path) -> None:
    file = parquet(tmp_path / "bugs" / "train.parquet", [0, 1] * 10)
    table = pq.read_table(file).replace_schema_metadata({"huggingface": "[" * 100_000})
    pq.write_table(table, file)
    assert load_folder(file.parent).class_names == ("0", "1")


def test_an_error_for_missing_classes_says_what_was_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "bugs"
    shard(folder / "0.tar", _samples("cls", [b"ant", b"caf\xe9"] * 10))
    (folder / "more.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"has 1 class, at least 2 are needed; not used: .*cannot be read: 10") as e:
        load_folder(folder)
    assert "files ending in .zip: 1 (more.zip)" in str(e.value)


# Names and numbers of classes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ant", "bee", "ant"], r"two classes are called 'ant'"),
        (["ant", "", "bee"], r"class 1 has no name"),
        (["ant", " ", "bee"], r"class 1 has no name"),
        (["ant", "b\0ee", "cow"], r"the class name 'b\\x00ee' has a character of value 0"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_names_that_cannot_name_a_class_are_refused(
    tmp_path: Path, names: list[str], message: str, beside: bool
) -> None:
    folder = parquet(tmp_path / "bugs" / "train.parquet", [0, 1, 2] * 10, names=None if beside else names).parent
    if beside:
        (folder / "labels.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match=message):
        load_folder(folder)


def test_labels_that_begin_at_1_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels seem to begin at 1, but classes are numbered from 0"):
        load_folder(parquet(tmp_path / "a" / "train.parquet", [1, 2] * 10).parent)
    folder = parquet(tmp_path / "b" / "train.parquet", [1, 2] * 10, names=["ant", "bee"]).parent
    with pytest.raises(DataError, match=r"label 2 of .* is none of the 2 classes; labels seem to begin at 1"):
        load_folder(folder)


# Shards


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "it is empty"), (b"<html>not found</html>", "it is not a tar file")]
)
def test_a_file_that_is_no_tar_says_so(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bugs").mkdir()
    (tmp_path / "bugs" / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot read .*a\.tar: {reason}"):
        load_folder(tmp_path / "bugs")

"""Folders of images as people have them: what is found, in which order, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from elasticvit.data.readers import open_source
from elasticvit.data.readers.source import Contents, Part
from elasticvit.errors import DataError
from tests.elasticvit.data.image_files import encoded, image, image_folder, parquet, shard


def _contents(part: Part) -> list[bytes]:
    return [content if isinstance(content, bytes) else content.read_bytes() for _, content in part.stream()]


def _read(folder: Path) -> Contents:
    return open_source(folder).read()


def _pictures(start: int, count: int) -> list[bytes]:
    return [encoded(image(number)) for number in range(start, start + count)]


def test_an_image_folder_numbers_classes_by_name_and_keeps_splits_apart(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 3, ("bee", "ant"))
    image_folder(tmp_path / "val", 2, ("ant", "bee"), start=100)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not asked for")
    (tmp_path / "train" / "ant" / "._000.png").write_bytes(b"a Mac was here")
    data = _read(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert _contents(data.train) == _pictures(3, 3) + _pictures(0, 3)
    assert data.val is not None and data.val.labels.tolist() == [0, 0, 1, 1]
    assert _contents(data.val) == _pictures(100, 4)
    assert next(name for name, _ in data.val.stream()) == "val/ant/000.png"


def test_a_folder_without_splits_is_all_to_train_on_and_may_be_deep(tmp_path: Path) -> None:
    image_folder(tmp_path, 2)
    deep = tmp_path / "ant" / "images" / "x.JPEG"
    deep.parent.mkdir()
    deep.write_bytes(encoded(image(9), "jpeg"))
    data = _read(tmp_path)
    assert data.val is None
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path, 2)
    (tmp_path / "cow").mkdir()
    with pytest.raises(DataError, match="no images in the class folder 'cow'"):
        _read(tmp_path)


def test_classes_that_only_val_has_are_named(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 2)
    image_folder(tmp_path / "val", 2, ("ant", "images"))
    with pytest.raises(DataError, match=r"val holds 'images', which is not a class to train on"):
        _read(tmp_path)


def test_parquet_shards_come_in_order_with_the_names_of_their_schema(tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [1, 0], names=["cat", "dog"], start=5)
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1, 1, 0, 0], names=["cat", "dog"])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [1], names=["cat", "dog"], start=50)
    parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [1, 1], names=["cat", "dog"], start=60)
    data = _read(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 1, 0, 0, 1, 0]
    assert _contents(data.train) == _pictures(0, 7)
    assert [name for name, _ in data.train.stream()][-1] == "data/train-00001-of-00002.parquet row 1"
    assert data.val is not None and _contents(data.val) == _pictures(60, 2)


@pytest.mark.parametrize(
    ("beside", "names"),
    [
        (None, ("0", "1", "2")),
        (["a", "b", "c"], ("a", "b", "c")),
        ([{"label": 1, "name": "b"}, {"label": 0, "name": "a"}, {"label": 2, "name": "c"}], ("a", "b", "c")),
        ({"0": "a", "1": "b", "2": "c"}, ("a", "b", "c")),
    ],
)
def test_names_come_from_beside_where_the_schema_has_none(
    tmp_path: Path, beside: object, names: tuple[str, ...]
) -> None:
    parquet(tmp_path / "0000.parquet", [2, 0, 1], column="labels")
    if beside is not None:
        (tmp_path / "labels.json").write_text(json.dumps(beside))
    assert _read(tmp_path).class_names == names


def test_labels_may_be_names(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", ["dog", "cat", "dog"])
    data = _read(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -2, 1], "label -2 of train.parquet row 1 is none of the 2 classes"),
        ([0, 10**15, 1], "there is a label 1000000000000000"),
    ],
)
def test_absurd_labels_are_refused(tmp_path: Path, labels: list[int], message: str) -> None:
    parquet(tmp_path / "train.parquet", labels)
    with pytest.raises(DataError, match=message):
        _read(tmp_path)


def test_a_damaged_parquet_file_and_missing_columns_are_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "train.parquet", [0, 1])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet"):
        _read(tmp_path)
    parquet(file, [0, 1], column="species")
    with pytest.raises(DataError, match="no column 'label' or 'labels', but image, species"):
        _read(tmp_path)
    (tmp_path / "labels.json").write_text('{"0": 3}')
    parquet(file, [0, 1])
    with pytest.raises(DataError, match="not a list of class names"):
        _read(tmp_path)


def test_shards_group_files_by_key(tmp_path: Path) -> None:
    pictures = _pictures(0, 5)
    kinds: list[dict[str, bytes]] = [
        {"png": pictures[0], "cls": b"1"},
        {"json": b'{"label": 0, "caption": "an ant"}', "PNG": pictures[1]},
        {"txt": b"words", "jpeg": pictures[2], "cls": b" 1\n"},
    ]
    shard(tmp_path / "set-train-000000.tar", kinds)
    shard(tmp_path / "set-train-000001.tar", [{"webp": pictures[3], "json": b"0"}])
    shard(tmp_path / "set-val-000000.tar", [{"cls": b"1", "png": pictures[4]}])
    data = _read(tmp_path)
    assert data.class_names == ("0", "1")
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert _contents(data.train) == pictures[:4]
    assert [name for name, _ in data.train.stream()][:2] == [
        "set-train-000000.tar 000000.png",
        "set-train-000000.tar 000001.PNG",
    ]
    assert data.val is not None and _contents(data.val) == pictures[4:]


def test_a_sample_without_a_label_and_a_truncated_shard_are_named(tmp_path: Path) -> None:
    file = shard(tmp_path / "000.tar", [{"png": encoded(image(i)), "cls": b"0"} for i in range(4)])
    whole = file.read_bytes()
    file.write_bytes(whole[:1700])
    with pytest.raises(DataError, match=r"cannot read .*000\.tar"):
        _read(tmp_path)
    shard(file, [{"png": encoded(image(0)), "json": b'{"caption": "an ant"}'}])
    with pytest.raises(DataError, match=r"000000 has no label; put its class's number into 000000\.cls"):
        _read(tmp_path)


def test_the_error_for_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(DataError, match=r"no \*\.parquet, no \*\.tar and no folder a class"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        open_source(tmp_path / "missing")


def test_class_folders_win_over_the_tar_they_came_in(tmp_path: Path) -> None:
    image_folder(tmp_path, 2)
    shard(tmp_path / "ant.tar", [{"png": encoded(image(0))}])
    assert len(_read(tmp_path).train.labels) == 4


def test_identity_follows_files_not_their_place(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "here", 2)
    before = open_source(folder).identity
    moved = folder.rename(tmp_path / "there")
    assert open_source(moved).identity == before
    (moved / "ant" / "000.png").write_bytes(encoded(image(77, (20, 20))))
    changed = open_source(moved).identity
    (moved / "ant" / "001.png").rename(moved / "ant" / "renamed.png")
    assert len({before, changed, open_source(moved).identity}) == 3


def test_labels_are_whole_numbers_of_64_bits(tmp_path: Path) -> None:
    assert _read(image_folder(tmp_path, 2)).train.labels.dtype == np.int64

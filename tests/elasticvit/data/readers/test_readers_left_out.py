"""Every reader reports what it leaves out and why. Ambiguous splits, classes and labels are refused, not guessed."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from elasticvit.data.image_set import ImageSet, load_folder
from elasticvit.errors import DataError
from tests.elasticvit.data.image_files import encoded, image, image_folder, parquet, shard


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "cache"))


def _count(data: ImageSet) -> int:
    return sum(map(len, (data.train, data.search, data.val)))


def _tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Shard of members in this order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return file


def _pairs(count: int = 20) -> list[tuple[str, bytes]]:
    """Members of a shard of two classes: an image, then its label."""
    members = []
    for i in range(count):
        members += [(f"{i:04}.png", encoded(image(i))), (f"{i:04}.cls", str(i % 2).encode())]
    return members


# Folders


def test_all_endings_of_decoded_formats_are_images(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    for i, (ending, kind) in enumerate([("jfif", "jpeg"), ("JPE", "jpeg"), ("pgm", "ppm"), ("apng", "png")]):
        (folder / "ant" / f"more{i}.{ending}").write_bytes(encoded(image(90 + i), kind))
    data = load_folder(folder)
    assert (_count(data), data.skipped) == (24, None)


def test_files_of_other_endings_are_counted_and_named_on_every_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    for i in range(5):
        (folder / "ant" / f"{i}.heic").write_bytes(b"ftypheic")
    (folder / "bee" / "noending").write_bytes(encoded(image(0)))
    (folder / "bee" / ".hidden.png").write_bytes(encoded(image(0)))
    (folder / "loose.png").write_bytes(encoded(image(0)))
    (folder / "more.zip").write_bytes(b"PK")
    for _ in range(2):
        data = load_folder(folder)
        assert _count(data) == 20 and data.skipped is not None
        assert "files ending in .heic: 5 (ant/0.heic, ant/1.heic, ant/2.heic, ...)" in data.skipped
        assert "files without an ending: 1 (bee/noending)" in data.skipped
        assert "hidden images: 1 (bee/.hidden.png)" in data.skipped
        assert "images outside of class folders: 1 (loose.png)" in data.skipped
        assert "files ending in .zip: 1 (more.zip)" in data.skipped
    assert capsys.readouterr().err.count("bugs: not used: files ending in .heic: 5") == 1
    (folder / "ant" / "0.heic").unlink()
    assert "files ending in .heic: 4" in (load_folder(folder).skipped or "")


def test_a_class_folder_of_other_endings_names_them(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    (folder / "cow").mkdir()
    (folder / "cow" / "0.heic").write_bytes(b"ftypheic")
    with pytest.raises(DataError, match=r"no images in the class folder 'cow' .*\.heic: 1 \(cow/0\.heic\)"):
        load_folder(folder)


def test_a_link_to_a_folder_is_not_followed_but_reported(tmp_path: Path) -> None:
    folder, other = image_folder(tmp_path / "bugs", 10), image_folder(tmp_path / "other", 2)
    (folder / "ant" / "more").symlink_to(other)
    assert "links to folders inside a class folder: 1 (ant/more)" in (load_folder(folder).skipped or "")


@pytest.mark.parametrize("name", ["train", "test", "Val"])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, name: str) -> None:
    data = load_folder(image_folder(tmp_path / "vehicles", 10, ("bus", "car", name)))
    assert data.class_names == tuple(sorted(("bus", "car", name))) and _count(data) == 30


def test_a_folder_that_may_be_a_class_or_a_split_is_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "vehicles", 10, ("bus", "car"))
    image_folder(folder / "train", 10, ("diesel", "steam"))
    with pytest.raises(DataError, match=r"train is taken for the images to train on.*bus, car beside it"):
        load_folder(folder)


def test_folders_beside_splits_are_reported(tmp_path: Path) -> None:
    image_folder(tmp_path / "bugs" / "train", 10)
    image_folder(tmp_path / "bugs" / "val", 2, start=50)
    image_folder(tmp_path / "bugs" / "test", 3, start=60)
    image_folder(tmp_path / "bugs" / "augmented", 4, start=70)
    data = load_folder(tmp_path / "bugs")
    assert len(data.val) == 4 and data.skipped is not None
    assert "images in 'test', since 'val' is used: 6 (test/ant/000.png, " in data.skipped
    assert "images in other folders beside 'train': 8 (augmented/ant/000.png, " in data.skipped


def test_val_of_the_same_classes_beside_class_folders_is_a_split(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    image_folder(folder / "val", 2, start=50)
    data = load_folder(folder)
    assert (data.class_names, len(data.val), _count(data)) == (("ant", "bee"), 4, 24)


def test_a_test_folder_without_classes_is_not_labelled(tmp_path: Path) -> None:
    image_folder(tmp_path / "bugs" / "train", 10)
    (tmp_path / "bugs" / "test").mkdir()
    (tmp_path / "bugs" / "test" / "1.png").write_bytes(encoded(image(99)))
    data = load_folder(tmp_path / "bugs")
    assert (len(data.train), len(data.val)) == (16, 2)
    assert data.skipped == "not used: images in 'test' without class folders: 1 (test/1.png)"


def test_splits_without_train_are_not_taken_for_classes(tmp_path: Path) -> None:
    image_folder(tmp_path / "bugs" / "val", 10)
    image_folder(tmp_path / "bugs" / "test", 10)
    with pytest.raises(DataError, match="holds 'test' and no images to train on"):
        load_folder(tmp_path / "bugs")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    (folder / "ant" / "000.png").rename(folder / "ant" / "caf\udce9.png")
    (folder / "ant" / "caf\udce9.heic").write_bytes(b"?")
    data = load_folder(folder)
    assert _count(data) == 20 and data.skipped == r"not used: files ending in .heic: 1 (ant/caf\xe9.heic)"
    (folder / "bee").rename(folder / "caf\udce9")
    with pytest.raises(DataError, match=r"folder name 'caf\\xe9' in .* is not UTF-8.* rename the folder"):
        load_folder(folder)


# Parquet files


def _of_paths(file: Path, paths: list[str | None]) -> None:
    rows = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(len(rows))]}), file)


def test_parquet_files_may_hold_paths_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "bugs"
    (folder / "images").mkdir(parents=True)
    for i in range(21):
        (folder / "images" / f"{i}.png").write_bytes(encoded(image(i)))
    _of_paths(folder / "train.parquet", [f"images/{i}.png" for i in range(20)])
    data = load_folder(folder)
    assert _count(data) == 20
    assert data.skipped == "not used: images outside of Parquet files: 1 (images/20.png)"
    # Images are part of the set, so changed ones are decoded again.
    before = data.train.images.clone()
    for i in range(20):
        (folder / "images" / f"{i}.png").write_bytes(encoded(image(50 + i)))
    assert not (load_folder(folder).train.images == before).all()


def test_paths_without_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "bugs"
    folder.mkdir()
    _of_paths(folder / "train.parquet", [f"images/{i}.png" for i in range(20)])
    with pytest.raises(DataError, match=r"holds paths of images and no bytes, and there is no file .*images/0\.png"):
        load_folder(folder)


@pytest.mark.parametrize("hidden", ["test-0", "validation-0"])
def test_a_split_with_hidden_labels_is_not_used(tmp_path: Path, hidden: str) -> None:
    parquet(tmp_path / "bugs" / "train-0.parquet", [0, 1] * 10, names=["ant", "bee"])
    parquet(tmp_path / "bugs" / f"{hidden}.parquet", [-1] * 5, names=["ant", "bee"], start=50)
    data = load_folder(tmp_path / "bugs")
    assert (len(data.train), len(data.search), len(data.val)) == (16, 2, 2)
    assert data.skipped is not None and f"none of which has a label: 5 ({hidden}.parquet row 0" in data.skipped


def test_a_test_split_may_lack_the_column_of_labels(tmp_path: Path) -> None:
    parquet(tmp_path / "bugs" / "train-0.parquet", [0, 1] * 10)
    parquet(tmp_path / "bugs" / "test-0.parquet", [0] * 5, column="id", start=50)
    data = load_folder(tmp_path / "bugs")
    assert len(data.val) == 2 and "images of 'test', none of which has a label: 5" in (data.skipped or "")


def test_a_labelled_test_stands_in_for_an_unlabelled_val(tmp_path: Path) -> None:
    parquet(tmp_path / "bugs" / "train.parquet", [0, 1] * 10)
    parquet(tmp_path / "bugs" / "val.parquet", [-1] * 5, start=50)
    parquet(tmp_path / "bugs" / "test.parquet", [0, 1, 1], start=60)
    assert load_folder(tmp_path / "bugs").val.labels.tolist() == [0, 1, 1]


def test_rows_without_a_label_are_counted(tmp_path: Path) -> None:
    labels: list[int | None] = [0, 1] * 10
    labels[3], labels[8] = None, -1
    parquet(tmp_path / "bugs" / "train.parquet", labels)  # type: ignore[arg-type]
    data = load_folder(tmp_path / "bugs")
    assert _count(data) == 18
    assert data.skipped == "not used: images without a label: 2 (train.parquet row 3, train.parquet row 8)"
    with pytest.raises(DataError, match=r"none of the 4 images .* has a label, the first is train\.parquet row 0"):
        load_folder(parquet(tmp_path / "none" / "train.parquet", [-1] * 4).parent)


def test_files_that_number_classes_differently_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "bugs" / "train-0.parquet", [0, 1] * 10, names=["ant", "bee"])
    parquet(tmp_path / "bugs" / "train-1.parquet", [0, 1] * 10, names=["bee", "ant"], start=20)
    with pytest.raises(DataError, match=r"train-1\.parquet has other class names.*class 0 is 'bee', not 'ant'"):
        load_folder(tmp_path / "bugs")


def test_files_beside_parquet_files_are_reported(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "bugs" / "train.parquet", [0, 1] * 10).parent
    parquet(folder / "extra.parquet", [0, 1])
    parquet(folder / "a" / "b" / "deep.parquet", [0, 1])
    shard(folder / "old.tar", [{"png": encoded(image(0)), "cls": b"0"}])
    parquet(folder / "val.parquet", [0, 1], start=30)
    parquet(folder / "test.parquet", [0, 1], start=40)
    skipped = load_folder(folder).skipped or ""
    assert "files that name no split beside files that name 'train': 1 (extra.parquet)" in skipped
    assert "deeper Parquet files: 1 (a/b/deep.parquet)" in skipped and "files ending in .tar: 1 (old.tar)" in skipped
    assert "images of 'test', since 'val' is used: 2 (test.parquet row 0" in skipped


# Shards


def test_names_of_members_may_have_dots(tmp_path: Path) -> None:
    members = []
    for i in range(40):
        key = f"cam{i // 4:02}.{i % 4:02}"
        members += [(f"{key}.jpg", encoded(image(i), "jpeg")), (f"{key}.cls", str(i % 2).encode())]
    data = load_folder(_tar(tmp_path / "bugs" / "train-000.tar", members).parent)
    assert (_count(data), data.skipped) == (40, None)


def test_several_images_of_one_label_are_one_sample_and_reported(tmp_path: Path) -> None:
    members = []
    for i in range(20):
        members += [(f"{i:04}.depth.png", encoded(image(50 + i))), (f"{i:04}.png", encoded(image(i)))]
        members += [(f"{i:04}.cls", str(i % 2).encode())]
    data = load_folder(_tar(tmp_path / "bugs" / "0.tar", members).parent)
    assert _count(data) == 20 and "further images of a sample: 20 (0.tar 0000.depth.png" in (data.skipped or "")


def test_members_without_partners_are_counted(tmp_path: Path) -> None:
    members = [*_pairs(), ("0100.png", encoded(image(0))), ("0101.cls", b"1"), ("0102.txt", b"words")]
    data = load_folder(_tar(tmp_path / "bugs" / "0.tar", members).parent)
    assert _count(data) == 20 and data.skipped is not None
    assert "images without a label: 1 (0.tar 0100.png)" in data.skipped
    assert "labels without an image: 1 (0.tar 0101.cls)" in data.skipped
    assert "files ending in .txt in shards: 1 (0.tar 0102.txt)" in data.skipped


def test_shards_that_end_too_early_or_too_late_are_refused(tmp_path: Path) -> None:
    file = _tar(tmp_path / "bugs" / "0.tar", _pairs())
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        offset = tar.getmembers()[16].offset
    for content, message in [
        (whole[:offset], "cut off, a tar file without its end"),
        (whole[: offset + 100], "cut off, a tar file without its end"),
        (whole[:offset] + b"x" * 512 + whole[offset + 512 :], f"damaged at byte {offset:,}"),
        (whole + whole, "goes on behind its end"),
    ]:
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_folder(file.parent)


def test_compressed_shards_are_read(tmp_path: Path) -> None:
    file = _tar(tmp_path / "bugs" / "0.tar", _pairs())
    with tarfile.open(tmp_path / "bugs" / "1.tar.gz", "w:gz") as tar:
        for name, content in _pairs():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    assert _count(load_folder(file.parent)) == 40


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(n.replace(".cls", ".txt"), c) for n, c in _pairs()], r"not from files ending in \.txt"),
        (sorted(_pairs(), key=lambda member: member[0][-3:]), r"0000\.png and 0000\.cls lie apart; sort the tar"),
        ([("cat/" + n, c) for n, c in _pairs() if n.endswith("png")], "folders in a tar file are not read as classes"),
        ([(n, c) for n, c in _pairs() if n.endswith("png")], "put its class's number into 0000.cls"),
        ([("labels/" * n.endswith("cls") + n, c) for n, c in _pairs()], "no label has the name of an image"),
        ([(n, c) for n, c in _pairs() if n.endswith("cls")], "holds no images"),
        ([*_pairs(), *_pairs(1)], r"holds 0000\.png twice"),
    ],
)
def test_labels_that_cannot_be_used_say_why(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_folder(_tar(tmp_path / "bugs" / "train.tar", members).parent)


def test_labels_beside_shards_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = _tar(tmp_path / "bugs" / "train.tar", _pairs()).parent
    (folder / "labels.json").write_text(json.dumps(["ant", "\ud800"]))
    with pytest.raises(DataError, match="cannot be written as UTF-8"):
        load_folder(folder)

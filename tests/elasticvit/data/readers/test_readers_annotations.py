"""The layout in which Tiny-ImageNet is published: the classes of `val` are in a text file."""

from pathlib import Path

import pytest

from elasticvit.data.image_set import load_folder
from elasticvit.data.readers import open_source
from elasticvit.errors import DataError
from tests.elasticvit.data.image_files import image_folder

BOX = "0\t0\t15\t15"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As it is unpacked: images and boxes in each class, `val` and `test` without class folders."""
    root = tmp_path / "tiny"
    for number, name in enumerate(("n01", "n02")):
        image_folder(root / "train" / name, 10, ["images"], start=10 * number)
        (root / "train" / name / f"{name}_boxes.txt").write_text("000.png\t0\t0\t15\t15\n")
    image_folder(root / "val", 4, ["images"], start=50)
    image_folder(root / "test", 3, ["images"], start=60)
    _annotate(root, [f"{i:03}.png\tn0{2 - i % 2}\t{BOX}" for i in range(4)])
    return root


def _annotate(root: Path, lines: list[str]) -> None:
    (root / "val" / "val_annotations.txt").write_text("".join(f"{line}\n" for line in lines))


def test_images_of_val_have_the_classes_of_the_annotations(folder: Path) -> None:
    contents = open_source(folder).read()
    assert contents.class_names == ("n01", "n02") and contents.val is not None
    assert contents.val.labels.tolist() == [0, 0, 1, 1]
    assert [name for name, _ in contents.val.stream()] == [f"val/images/{i:03}.png" for i in (1, 3, 0, 2)]
    skipped = load_folder(folder).skipped or ""
    assert "images in 'test', since 'val' is used: 3" in skipped and "val_annotations" not in skipped


def test_changed_annotations_are_another_set(folder: Path) -> None:
    before = open_source(folder).identity
    _annotate(folder, [f"{i:03}.png\tn0{1 + i % 2}\t{BOX} " for i in range(4)])
    assert open_source(folder).identity != before


def test_what_annotations_and_images_do_not_share_is_reported(folder: Path) -> None:
    _annotate(folder, [f"001.png\tn01\t{BOX}", f"002.png\tn02\t{BOX}", f"gone.png\tn01\t{BOX}", ""])
    data = load_folder(folder)
    assert len(data.val) == 2 and data.skipped is not None
    assert "images without a line in val_annotations.txt: 2 (val/images/000.png, val/images/003.png)" in data.skipped
    assert "lines of val_annotations.txt without an image: 1 (gone.png)" in data.skipped


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["000.png\tn07"], r"val_annotations\.txt holds 'n07', which is not a class to train on"),
        (["000.png n01"], r"line 1 of .*val_annotations\.txt is not a file and its class with a tab between"),
        (["000.png\tn01", "000.png\tn02"], r"val_annotations\.txt has two classes for 000\.png"),
        ([], r"val_annotations\.txt names none of the 4 images beside it"),
        (["000.png\t\udce9"], r"cannot read .*val_annotations\.txt: it is not UTF-8"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(folder: Path, lines: list[str], message: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    (folder / "val" / "val_annotations.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        load_folder(folder)


def test_class_folders_win_over_the_annotations_they_were_made_by(folder: Path) -> None:
    for name in ("n01", "n02"):
        image_folder(folder / "val", 2, [name], start=70)
    for path in (folder / "val" / "images").iterdir():
        path.unlink()
    (folder / "val" / "images").rmdir()
    assert len(load_folder(folder).val) == 4


def test_without_annotations_the_folder_is_named_with_what_to_do(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"'images', which is not a class to train on; .* folders named like those of"):
        load_folder(folder)

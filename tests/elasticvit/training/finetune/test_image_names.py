"""Names of sets and folders as users type them: a side behind `@`, and folders that are called like a built-in set."""

from pathlib import Path

import pytest

from elasticvit.data.image_set import load_named, shadowed_folder
from elasticvit.errors import DataError
from elasticvit.training.finetune.run import image_name
from tests.elasticvit.data.image_files import image_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("side", ["64px", "-1", "1.5", "", " 64"])
def test_a_side_that_is_no_number_is_refused(tmp_path: Path, side: str) -> None:
    image_folder(tmp_path / "photos", 10)
    for name in (f"photos@{side}", image_name(f"photos@{side}", 32)):
        with pytest.raises(DataError, match=rf"'{side}' behind the @ of .* is not a side in pixels, as in photos@64"):
            load_named(name)
    image_folder(tmp_path / f"photos@{side}", 10)
    assert load_named(f"photos@{side}").train.images.shape[-1] == 16
    assert image_name(f"photos@{side}", 32) == f"{tmp_path}/photos@{side}@32"


def test_a_name_that_is_too_long_is_refused() -> None:
    for images in ("a" * 300, "a" * 300 + "@64"):
        with pytest.raises(DataError, match=r"cannot look for the folder a.*: File name too long"):
            image_name(images, 32)


@pytest.mark.parametrize("name", ["digits", "flowers", "cifar10", "tiny-imagenet", "tiny-imagenet:20", "flowers@64"])
def test_a_folder_called_like_a_built_in_set_is_not_passed_over(tmp_path: Path, name: str) -> None:
    folder = name.partition(":")[0].partition("@")[0]
    image_folder(tmp_path / folder, 10)
    assert image_name(name, 32) == name
    assert shadowed_folder(name) == f"'{folder}' is the built-in set; for the folder {folder} here, write ./{folder}"
    assert shadowed_folder(f"./{folder}") is None
    assert image_name(f"./{folder}", 32) == f"{tmp_path / folder}@32"
    assert image_name(f"./{folder}@64", 32) == f"{tmp_path / folder}@64"


def test_a_missing_built_in_set_mentions_the_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICVIT_DATA", str(tmp_path / "data"))
    image_folder(tmp_path / "flowers", 10)
    with pytest.raises(DataError, match=r"set ELASTICVIT_DATA .*, or write \./flowers for the folder flowers"):
        load_named("flowers")
    # A built-in set stays what a card calls it, in whichever folder the command runs.
    image_folder(tmp_path / "digits", 10)
    assert len(load_named("digits").class_names) == 10

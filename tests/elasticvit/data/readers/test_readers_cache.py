"""Decoded sets: their splits, what is skipped, and the cache: whole or not at all, found again, shared."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from elasticvit.data.image_set import ImageSet, Split, load_folder, load_named, mapped
from elasticvit.data.readers.cache import cached
from elasticvit.data.readers.pool import Job, Place, Skipped, decode_all
from elasticvit.errors import DataError
from elasticvit.progress import Step
from elasticvit.training.finetune.transfer import check_images
from tests.elasticvit.data.image_files import encoded, image, image_folder, parquet, shard


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _numbers(split: Split, count: int) -> list[int]:
    """Which of the first `count` test pictures the images of a split are."""
    known = {np.asarray(image(number)).transpose(2, 0, 1).tobytes(): number for number in range(count)}
    return [known[picture.numpy().tobytes()] for picture in split.images]


def _sets(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_three_splits_hold_every_image_once_with_its_label(tmp_path: Path) -> None:
    data = load_folder(image_folder(tmp_path / "bugs", 20))
    assert (data.name, data.class_names, data.terms, data.skipped) == ("bugs", ("ant", "bee"), None, None)
    assert [len(split) for split in (data.train, data.search, data.val)] == [32, 4, 4]
    numbers = [_numbers(split, 40) for split in (data.train, data.search, data.val)]
    assert sorted(chain(*numbers)) == list(range(40))
    assert [sorted(part) for part in numbers[1:]] == [[16, 17, 36, 37], [18, 19, 38, 39]]
    assert numbers[0] != sorted(numbers[0])
    for split, part in zip((data.train, data.search, data.val), numbers, strict=True):
        assert split.labels.tolist() == [number // 20 for number in part]


def test_val_is_as_it_comes_and_search_is_out_of_train(tmp_path: Path) -> None:
    image_folder(tmp_path / "bugs" / "train", 10)
    image_folder(tmp_path / "bugs" / "val", 2, start=20)
    data = load_folder(tmp_path / "bugs")
    assert [len(split) for split in (data.train, data.search, data.val)] == [18, 2, 4]
    assert _numbers(data.val, 24) == [20, 21, 22, 23]
    assert sorted(_numbers(data.search, 24)) == [9, 19]


def test_parquet_and_shards_give_the_same_set_as_a_folder(tmp_path: Path) -> None:
    labels = [0] * 10 + [1] * 10
    image_folder(tmp_path / "a", 10)
    parquet(tmp_path / "b" / "train-0.parquet", labels[:13], names=["ant", "bee"])
    parquet(tmp_path / "b" / "train-1.parquet", labels[13:], names=["ant", "bee"], start=13)
    samples = [{"png": encoded(image(i)), "cls": str(label).encode()} for i, label in enumerate(labels)]
    shard(tmp_path / "c" / "00.tar", samples[:7])
    shard(tmp_path / "c" / "01.tar", samples[7:])
    first, *rest = (load_folder(tmp_path / name) for name in "abc")
    for other in rest:
        for split in ("train", "search", "val"):
            mine, theirs = getattr(first, split), getattr(other, split)
            assert torch.equal(mine.images, theirs.images) and torch.equal(mine.labels, theirs.labels)


def test_images_of_different_sizes_take_a_side(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "photos", 6)
    assert load_named(str(folder)).train.images.shape[1:] == (3, 16, 16)
    (folder / "ant" / "000.png").write_bytes(encoded(image(0, (50, 30))))
    assert load_named(str(folder)).train.images.shape[1:] == (3, 224, 224)
    small = load_named(f"{folder}@12")
    assert small.name == f"{folder}@12"
    assert small.train.images.shape[1:] == (3, 12, 12)


def test_unreadable_images_are_skipped_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    folder = image_folder(tmp_path / "bugs", 60)
    (folder / "ant" / "003.png").write_bytes(b"")
    (folder / "bee" / "007.png").write_bytes(b"no image")
    (folder / "bee" / "059.png").write_bytes(encoded(image(9))[:70])
    for _ in range(2):
        data = load_folder(folder)
        assert data.skipped is not None
        assert data.skipped.startswith(
            "3 of 120 images were skipped: ant/003.png (empty), bee/007.png (not an image), bee/059.png ("
        )
        splits = (data.train, data.search, data.val)
        numbers = [_numbers(split, 120) for split in splits]
        assert sorted(chain(*numbers)) == sorted(set(range(120)) - {3, 67, 119})
        for split, part in zip(splits, numbers, strict=True):
            assert split.labels.tolist() == [number // 60 for number in part]
    assert capsys.readouterr().err.count("bugs: 3 of 120 images were skipped") == 1
    assert len(_sets(cache)) == 1


def test_too_many_unreadable_images_are_an_error(tmp_path: Path, cache: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 50)
    for i in range(6):
        (folder / "ant" / f"{i:03}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"too many images of bugs are unreadable \(6 .*ant/000\.png \(not an image\)"):
        load_folder(folder)
    assert _sets(cache) == []


def test_a_class_that_is_left_without_images_is_an_error(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 60)
    (folder / "cow").mkdir()
    (folder / "cow" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="class 'cow' of bugs has no images to train on"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("classes", "per_class", "message"),
    [(("ant",), 9, "has 1 class, at least 2"), (("ant", "bee"), 1, "no images for search")],
)
def test_too_little_to_split_is_an_error(
    tmp_path: Path, classes: tuple[str, ...], per_class: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_folder(image_folder(tmp_path / "bugs", per_class, classes))


@pytest.mark.parametrize(("has_val", "word", "enough"), [(False, "four", 4), (True, "three", 3)])
def test_the_number_that_the_error_asks_for_is_enough(tmp_path: Path, has_val: bool, word: str, enough: int) -> None:
    def folder(name: str, per_class: int) -> Path:
        image_folder(tmp_path / name / "train", per_class)
        if has_val:
            image_folder(tmp_path / name / "val", 1, start=50)
        return tmp_path / name

    with pytest.raises(DataError, match=rf"no images for search: .*; give at least {word} of every class"):
        load_folder(folder("few", 1))
    data = load_folder(folder("enough", enough))
    assert (data.train.labels.bincount().tolist(), len(data.search), len(data.val)) == ([2, 2], 2, 2)
    check_images(data)


def test_a_second_load_decodes_nothing(tmp_path: Path, cache: Path) -> None:
    folder, steps = image_folder(tmp_path / "bugs", 10), list[Step]()
    load_folder(folder, report=steps.append)
    assert steps[-1] == Step("decode bugs", 20, 20)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    steps.clear()
    load_folder(folder, report=steps.append)
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == written
    os.utime(folder / "ant" / "000.png")
    load_folder(folder, report=steps.append)
    assert steps and len(_sets(cache)) == 2


def test_a_damaged_cache_is_built_again(tmp_path: Path, cache: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    before = load_folder(folder).train.images.clone()
    (made,) = _sets(cache)
    for file in ("train.u8", "set.json", "val.npy"):
        (made / file).write_bytes(b"{}")
        (made / file).unlink() if file == "val.npy" else None
        assert torch.equal(load_folder(folder).train.images, before)
    assert _sets(cache) == [made]


def test_images_are_mapped_not_read_and_writing_stays_private(tmp_path: Path) -> None:
    file, size = tmp_path / "huge.u8", 2**40
    with file.open("wb") as opened:
        opened.truncate(size)
    images = mapped(file, (size,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert images[torch.tensor([0, size // 2, size - 1])].tolist() == [0, 0, 0]
    images[5] = 7
    assert images[5] == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    with file.open("rb") as opened:
        assert opened.read(8) == bytes(8)


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path: Path, cache: Path) -> None:
    folder = image_folder(tmp_path / "bugs", 10)
    with _largest_file(9000), pytest.raises(DataError, match=r"cannot keep decoded images in .* ELASTICVIT_CACHE"):
        load_folder(folder)
    assert _sets(cache) == []
    assert len(load_folder(folder).train) == 16


def test_a_cache_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ELASTICVIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cannot keep decoded images in"):
        load_folder(image_folder(tmp_path / "bugs", 10))


def test_two_writers_build_once(tmp_path: Path, cache: Path) -> None:
    folder, both, steps = image_folder(tmp_path / "bugs", 30), threading.Barrier(2), list[Step]()

    def load(_: int) -> ImageSet:
        both.wait()
        return load_folder(folder, report=steps.append)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(load, range(2))
    assert torch.equal(first.train.images, second.train.images)
    assert [step.done for step in steps] == [60]
    assert len(_sets(cache)) == 1


def test_a_writer_that_is_beaten_takes_what_is_there(tmp_path: Path, cache: Path) -> None:
    # As on a file system without locks: the other one finishes while this one builds.
    def build(folder: Path) -> None:
        (folder / "whole").write_text("mine")
        (cache / "key").mkdir()
        (cache / "key" / "whole").write_text("theirs")

    place = cached("key", lambda folder: (folder / "whole").is_file(), build)
    assert (place / "whole").read_text() == "theirs"
    assert _sets(cache) == [place]


def test_what_a_killed_writer_left_is_swept(cache: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "whole").touch()

    (cache / ".key-0123abcd").mkdir(parents=True)
    (cache / ".other-0123abcd").mkdir()
    cached("key", lambda folder: (folder / "whole").is_file(), build)
    assert sorted(path.name for path in _sets(cache)) == [".other-0123abcd", "key"]


def _jobs(folder: Path, count: int) -> list[Job]:
    (folder / "out").write_bytes(bytes(count * 768))
    contents = [encoded(image(i)) if i % 100 != 7 else b"" for i in range(count)]
    return [Job(f"image {i}", content, Place(folder / "out", count - 1 - i)) for i, content in enumerate(contents)]


@pytest.mark.medium
def test_processes_decode_what_this_one_would(tmp_path: Path) -> None:
    counts, skipped = list[int](), list[Skipped]()

    def done(more: int, bad: list[Skipped]) -> None:
        counts.append(more)
        skipped.extend(bad)

    decode_all(_jobs(tmp_path, 300), 16, done, workers=2, patience_s=0)
    assert sorted(counts) == [44, 64, 64, 64, 64]
    assert sorted((bad.name, bad.reason) for bad in skipped) == [(f"image {i}", "empty") for i in (107, 207, 7)]
    written = np.fromfile(tmp_path / "out", dtype=np.uint8).reshape(300, 3, 16, 16)
    for i in range(300):
        wanted = np.asarray(image(i)).transpose(2, 0, 1) if i % 100 != 7 else np.zeros((3, 16, 16))
        assert np.array_equal(written[299 - i], wanted)


@pytest.mark.medium
def test_an_error_ends_the_processes(tmp_path: Path) -> None:
    def done(_more: int, bad: list[Skipped]) -> None:
        if bad:
            raise DataError("enough")

    jobs = _jobs(tmp_path, 300)
    jobs[7] = jobs[8]
    with pytest.raises(DataError, match="enough"):
        decode_all(jobs, 16, done, workers=2, patience_s=0)
    with pytest.raises(FileNotFoundError):
        gone = [Job(job.name, job.content, Place(tmp_path / "gone", 0)) for job in jobs]
        decode_all(jobs[:64] + gone, 16, lambda *_: None, workers=2, patience_s=0)


@pytest.mark.medium
def test_a_script_without_a_guard_may_load_images(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import elasticvit.data.readers.pool as pool\n"
        "from pathlib import Path\n"
        f"out, content = Path({str(tmp_path / 'out')!r}), Path({str(tmp_path / 'a.png')!r}).read_bytes()\n"
        "out.write_bytes(bytes(200 * 768))\n"
        "jobs = [pool.Job(str(i), content, pool.Place(out, i)) for i in range(200)]\n"
        "pool.decode_all(jobs, 16, lambda more, bad: print(more), workers=2, patience_s=0)\n"
    )
    (tmp_path / "a.png").write_bytes(encoded(image(0)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert sorted(done.stdout.split()) == ["64", "64", "64", "8"]

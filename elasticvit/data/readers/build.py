"""Decodes a source into the files of an image set, and opens them again.

A set's folder holds `set.json` and, for each of `train`, `search` and `val`, `NAME.u8` (images (N, 3, side, side) of
bytes) and `NAME.npy` (labels). Rows lie in the order in which they are used, so that a file is mapped as it is.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elasticvit.data.readers.cache import cached, reserve
from elasticvit.data.readers.decode import common_side
from elasticvit.data.readers.pool import Job, Place, Skipped, decode_all
from elasticvit.data.readers.source import Contents, Labels, Part, Source, check_class_names, reading
from elasticvit.errors import DataError
from elasticvit.progress import Report, Step

VERSION = 1
"""Of the decoding: sets that another version decoded are decoded again."""
HELD_OUT = 0.1
SIDE = 224
"""Of sets whose images have different sizes, if no side is given."""
SIDE_KEPT = 256
"""Images that are squares of one size up to this keep it."""
MAX_UNREADABLE = 0.05
NAMED = 5
"""Unreadable images that a report names."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How to make a set of a source: the side of its images in pixels, the number of its first classes to keep, and
    whether to leave out images of train whose bytes are those of an image of val."""

    side: int | None = None
    classes: int | None = None
    distinct: bool = False


@dataclass(frozen=True)
class Built:
    """A decoded set in its folder: `rows` is the number of images of each split, `skipped` says what is not used."""

    folder: Path
    class_names: tuple[str, ...]
    side: int
    rows: dict[str, int]
    skipped: str | None

    def images(self, split: str) -> Path:
        return self.folder / f"{split}.u8"

    def labels(self, split: str) -> Path:
        return self.folder / f"{split}.npy"


def built(source: Source, wanted: Wanted, name: str, report: Report, workers: int | None = None) -> Built:
    """The decoded set of a source: from the cache, else decoded into it.

    Raises:
        DataError: the source cannot be used (no images of a class, more than 5 % unreadable), or the cache not written.
    """
    facts = f"{VERSION} {source.identity} {json.dumps(asdict(wanted))}"
    key = hashlib.sha256(facts.encode()).hexdigest()[:32]
    fill = partial(_fill, source, wanted, report=Phase(name, report), workers=workers)
    decoded = _open(cached(key, lambda folder: _open(folder) is not None, fill))
    if decoded is None:
        raise DataError(f"the decoded images of {name} are gone; try again")
    # What the listing left out is no part of what was decoded: it may change, and decoding stays as it is.
    skipped = filter(None, [decoded.skipped, source.left_out.sentence()])
    return replace(decoded, skipped="; ".join(skipped) or None)


@dataclass(frozen=True)
class Phase:
    """Reports steps of the decoding of a set of this name."""

    name: str
    report: Report

    def __call__(self, done: int, total: int) -> None:
        self.report(Step(f"decode {self.name}", done, total))


def _open(folder: Path) -> Built | None:
    """None if the folder is missing or incomplete."""
    try:
        about = json.loads((folder / "set.json").read_text("utf-8"))
        built_set = Built(folder, tuple(about["class_names"]), about["side"], about["rows"], about["skipped"])
        sizes = [
            built_set.images(split).stat().st_size == n * 3 * built_set.side**2 for split, n in built_set.rows.items()
        ]
        return built_set if all(sizes) and all(built_set.labels(split).is_file() for split in built_set.rows) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fill(source: Source, wanted: Wanted, folder: Path, *, report: Phase, workers: int | None) -> None:
    contents = source.read()
    try:
        _write(contents, wanted, folder, report=report, workers=workers)
    except DataError as e:
        # Often what is missing was left out.
        unused = filter(None, [contents.left_out.sentence(), source.left_out.sentence()])
        raise DataError("; ".join([str(e), *unused])) from e


def _write(contents: Contents, wanted: Wanted, folder: Path, *, report: Phase, workers: int | None) -> None:
    names = contents.class_names[: wanted.classes]
    if len(names) < (wanted.classes or 2):
        classes = "1 class" if len(names) == 1 else f"{len(names)} classes"
        raise DataError(f"{report.name} has {classes}, {wanted.classes or 'at least 2'} are needed")
    check_class_names(names)
    plan = _plan(contents, len(names), wanted.distinct)
    side = wanted.side or _side(contents.train)
    for split, (_, rows) in plan.items():
        if not len(rows):
            held, enough = ("one image", "three") if contents.val else ("two images", "four")
            raise DataError(
                f"{report.name} has no images for {split}: {held} or more of every class are held out, and two or more "
                f"remain to train on; give at least {enough} of every class"
            )
        reserve(folder / f"{split}.u8", len(rows) * 3 * side**2)
    skipped = _decode(plan, folder, side, report, workers)
    kept = {split: _close_gaps(folder, split, part.labels[rows], skipped, side) for split, (part, rows) in plan.items()}
    for number in np.flatnonzero(np.bincount(kept["train"], minlength=len(names)) == 0):
        raise DataError(f"class {names[number]!r} of {report.name} has no images to train on; add some or remove it")
    for split, labels in kept.items():
        np.save(folder / f"{split}.npy", labels)
    total = sum(len(rows) for _, rows in plan.values())
    about = {
        "name": report.name,
        "class_names": names,
        "side": side,
        "rows": {split: len(labels) for split, labels in kept.items()},
        "skipped": "; ".join(filter(None, [_sentence(skipped, total), contents.left_out.sentence()])) or None,
    }
    (folder / "set.json").write_text(json.dumps(about, indent=1), "utf-8")


Plan = dict[str, tuple[Part, Rows]]


def _plan(contents: Contents, classes: int, distinct: bool) -> Plan:
    """The part and the rows, in order, of each split."""
    rows = np.flatnonzero(contents.train.labels < classes)
    if distinct and contents.val is not None:
        rows = rows[~np.isin(rows, _shared(contents.train, contents.val))]
    if contents.val is None:
        rows, val = (np.sort(split) for split in held_out(contents.train.labels, rows))
        held = contents.train, val
    else:
        held = contents.val, np.flatnonzero(contents.val.labels < classes)
    train, search = held_out(contents.train.labels, rows)
    return {"train": (contents.train, train), "search": (contents.train, search), "val": held}


def held_out(labels: Labels, rows: Rows) -> tuple[Rows, Rows]:
    """The rows without the last tenth of each class, and that tenth; both shuffled with a fixed seed.

    The last ones, not random ones: neighbours in a folder are often views of one object. A class of two to five images
    gives one.
    """
    rng, kept, held = np.random.default_rng(0), [], []
    for label in np.unique(labels[rows]):
        members = rows[labels[rows] == label]
        end = len(members) - max(round(HELD_OUT * len(members)), min(1, len(members) - 1))
        kept.append(members[:end])
        held.append(members[end:])
    first, second = (np.concatenate(parts) if parts else rows for parts in (kept, held))
    return first[rng.permutation(len(first))], second[rng.permutation(len(second))]


def _shared(train: Part, val: Part) -> Rows:
    """Rows of train whose encoded bytes are those of an image of val."""
    seen = {_digest(content) for _, content in val.stream()}
    return np.array([row for row, (_, content) in enumerate(train.stream()) if _digest(content) in seen], np.int64)


def _digest(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    with reading(content):
        return hashlib.sha256(content.read_bytes()).digest()


def _side(part: Part) -> int:
    """The common side of the first images, if it is small enough to be kept."""
    side = common_side([content for _, content in islice(part.stream(), 64)])
    return side if side is not None and side <= SIDE_KEPT else SIDE


def _decode(plan: Plan, folder: Path, side: int, report: Phase, workers: int | None) -> list[Skipped]:
    """Decode planned images into their places; returns those that could not be. Raises `DataError`, `OSError`."""
    total, done, skipped = sum(len(rows) for _, rows in plan.values()), 0, list[Skipped]()

    def count(more: int, bad: list[Skipped]) -> None:
        nonlocal done
        done += more
        skipped.extend(bad)
        if len(skipped) > MAX_UNREADABLE * total:
            raise DataError(
                f"too many images of {report.name} are unreadable ({len(skipped)} of the first {done}): "
                f"{_first(skipped)}; repair or remove them"
            )
        report(done, total)

    decode_all(_jobs(plan, folder), side, count, workers=workers)
    if done != total:
        raise DataError(f"{report.name} changed while it was read: {done} of {total} images were found")
    return skipped


def _jobs(plan: Plan, folder: Path) -> Iterator[Job]:
    for part in {id(part): part for part, _ in plan.values()}.values():
        files, positions = np.full(len(part.labels), -1), np.zeros(len(part.labels), np.int64)
        paths = [folder / f"{split}.u8" for split in plan]
        for number, (split_part, rows) in enumerate(plan.values()):
            if split_part is part:
                files[rows], positions[rows] = number, np.arange(len(rows))
        for (name, content), number, position in zip(part.stream(), files, positions, strict=False):
            if number >= 0:
                yield Job(name, content, Place(paths[number], int(position)))


def _close_gaps(folder: Path, split: str, labels: Labels, skipped: Sequence[Skipped], side: int) -> Labels:
    """Fill the places of skipped images from the end of the file, and truncate it; returns the remaining labels."""
    path, size, n, labels = folder / f"{split}.u8", 3 * side**2, len(labels), labels.copy()
    with path.open("r+b") as file:
        for gap in sorted((bad.place.position for bad in skipped if bad.place.file == path), reverse=True):
            n -= 1
            file.seek(n * size)
            last = file.read(size)
            file.seek(gap * size)
            file.write(last)
            labels[gap] = labels[n]
        file.truncate(n * size)
    return labels[:n]


def _sentence(skipped: Sequence[Skipped], total: int) -> str | None:
    if not skipped:
        return None
    return f"{len(skipped):,} of {total:,} images were skipped: {_first(skipped)}"


def _first(skipped: Sequence[Skipped]) -> str:
    named = sorted(skipped, key=lambda bad: bad.name)[:NAMED]
    more = len(skipped) - len(named)
    return ", ".join(f"{bad.name} ({bad.reason})" for bad in named) + (f" and {more:,} more" if more else "")

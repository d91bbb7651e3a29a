"""Tar shards as webdataset writes them: for every image KEY.jpg (or another ending) and KEY.cls or KEY.json.

`.cls` holds the number of the class or its name; `.json` the same, or an object with `label`, `cls` or `class`. Class
names are those of `labels.json` beside the shards, else the labels themselves. Files of one key lie side by side.

The standard library reads the archives, not the package webdataset: that one ends without a word at a damaged or
missing header, and takes everything behind the first dot for the ending, so that `cam.01.jpg` and `cam.02.jpg` are one
sample.
"""

import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from elasticvit.data.readers.imagefolder import is_image
from elasticvit.data.readers.left_out import LeftOut, by_ending, printable
from elasticvit.data.readers.source import (
    SPLIT_ORDER,
    UNREADABLE,
    Contents,
    Label,
    Named,
    Rows,
    Source,
    by_split,
    identity,
    labelled_contents,
    names_beside,
)
from elasticvit.errors import DataError

SHARDS = ("tar", "tar.gz", "tgz")
LABELS = (".cls", ".json")
LABEL_FIELDS = ("label", "cls", "class")
METADATA = re.compile(r"__[^/]*__($|/)")
"""Members that webdataset keeps for itself."""


def open_webdataset(folder: Path, shards: Sequence[Path], left_out: LeftOut) -> Source:
    """Raises `DataError` if no shard is to train on."""
    splits, unused = by_split(folder, shards)
    left_out.update(unused)
    beside = [path for path in [folder / "labels.json"] if path.is_file()]
    used = [shard for split in SPLIT_ORDER for shard in splits.get(split, [])]
    return Source(identity("webdataset 2", folder, [*used, *beside]), partial(_read, folder, splits), left_out)


def _read(folder: Path, splits: Mapping[str, Sequence[Path]]) -> Contents:
    left_out = LeftOut()
    indexed = {split: [_index(folder, shard, left_out) for shard in shards] for split, shards in splits.items()}
    if not any(image.label is not None for index in indexed["train"] for image in index.images):
        raise DataError(_why_unlabelled(indexed["train"]))
    rows = {split: _rows(indexes) for split, indexes in indexed.items()}
    return labelled_contents(rows, names_beside(folder), left_out)


@dataclass(frozen=True)
class _Image:
    """An image of a shard by the name of its member, and its label."""

    member: str
    label: Label | None


@dataclass(frozen=True)
class _Index:
    """What a shard holds: its images in their order, its labels, and the endings of all other members."""

    shard: Path
    name: str
    images: list[_Image]
    label_files: list[str]
    endings: set[str]


def _rows(indexes: Sequence[_Index]) -> Rows:
    images = [(index, image) for index in indexes for image in index.images]
    return Rows(
        [image.label for _, image in images],
        lambda at: f"{images[at][0].name} {printable(images[at][1].member)}",
        partial(_stream, indexes),
    )


def _stream(indexes: Sequence[_Index]) -> Iterator[Named]:
    for index in indexes:
        wanted = {image.member for image in index.images}
        with _opened(index.shard) as tar:
            for member in tar:
                if member.name in wanted:
                    yield f"{index.name} {printable(member.name)}", _content(tar, member)


@dataclass
class _Sample:
    """Members of one key."""

    images: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return bool(self.images and self.labels)


def _index(folder: Path, shard: Path, left_out: LeftOut) -> _Index:
    """Read a shard's names and labels. Raises `DataError` if it is damaged or not in order."""
    name = printable(shard.relative_to(folder).as_posix())
    members, contents, endings = list[str](), dict[str, bytes](), set[str]()
    with _opened(shard) as tar:
        for info in tar:
            member = info.name
            if (unusable := _unusable(info)) is not None:
                left_out.add(unusable, f"{name} {printable(member)}") if unusable else None
            elif is_image(member) or member.lower().endswith(LABELS):
                if member in contents:
                    raise DataError(f"{shard} holds {printable(member)} twice; remove one of them")
                members.append(member)
                contents[member] = b"" if is_image(member) else _content(tar, info)
            else:
                left_out.add(f"{by_ending(member)} in shards", f"{name} {printable(member)}")
                endings.add(Path(member).suffix.lower())
        _check_end(shard, tar)
    key_of = max((_key_to_first_dot, _key_to_last_dot), key=lambda key: _complete(_samples(members, key)))
    samples = _samples(members, key_of)
    _check_order(shard, members, key_of, samples)
    images = []
    for sample in samples.values():
        for label in sample.labels if not sample.images else ():
            left_out.add("labels without an image", f"{name} {printable(label)}")
        if sample.images:
            first, *more = sorted(sample.images, key=lambda member: member.count("."))
            image = _Image(first, _label((label, contents[label]) for label in sample.labels))
            images.append(image)
            for label in sample.labels if image.label is None else ():
                if not _is_readable(label, contents[label]):
                    left_out.add("labels that cannot be read", f"{name} {printable(label)}")
            for member in more:
                left_out.add("further images of a sample", f"{name} {printable(member)}")
    place = {member: i for i, member in enumerate(members)}
    images.sort(key=lambda image: place[image.member])
    return _Index(shard, name, images, [m for m in members if m.lower().endswith(LABELS)], endings)


def _unusable(member: tarfile.TarInfo) -> str | None:
    """Why a member is left out, the empty string if no report is needed; None for files that are used."""
    base = member.name.rpartition("/")[2]
    if member.isdir() or METADATA.match(member.name) or (base.startswith(".") and not is_image(base)):
        return ""
    if base.startswith("."):
        return "hidden images"
    return None if member.isreg() else "links and devices in shards"


def _key_to_first_dot(member: str) -> str:
    """The convention of webdataset: `a/0001.left.png` belongs to `a/0001.cls`."""
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _key_to_last_dot(member: str) -> str:
    """For names with dots: `a/cam.01.png` belongs to `a/cam.01.cls`."""
    return member.rpartition(".")[0]


def _samples(members: Sequence[str], key_of: Callable[[str], str]) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    for member in members:
        sample = samples.setdefault(key_of(member), _Sample())
        (sample.images if is_image(member) else sample.labels).append(member)
    return samples


def _complete(samples: Mapping[str, _Sample]) -> int:
    return sum(sample.is_complete for sample in samples.values())


def _check_order(
    shard: Path, members: Sequence[str], key_of: Callable[[str], str], samples: Mapping[str, _Sample]
) -> None:
    """Raises `DataError` if a sample's members do not lie side by side, as readers of shards expect."""
    done, last = set[str](), None
    for member in members:
        key = key_of(member)
        if key != last:
            if key in done:
                sample = samples[key]
                apart = printable((sample.images or [member])[0]), printable((sample.labels or [member])[0])
                raise DataError(
                    f"labels in {shard} are not beside their images: {apart[0]} and {apart[1]} lie apart; sort the tar "
                    "by name (tar --sort=name)"
                )
            done.add(key)
            last = key


def _label(contents: Iterator[tuple[str, bytes]]) -> Label | None:
    """The first label that can be read, of members by name."""
    for member, content in contents:
        try:
            value = _value(member, content)
        except UNREADABLE:
            continue
        if isinstance(value, Mapping):
            value = next((value[key] for key in LABEL_FIELDS if key in value), None)
        if isinstance(value, int | str) and not isinstance(value, bool) and value != "":
            return value
    return None


def _is_readable(member: str, content: bytes) -> bool:
    try:
        _value(member, content)
    except UNREADABLE:
        return False
    return True


def _value(member: str, content: bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    """What a label file holds, with or without a byte order mark. Raises `UNREADABLE`."""
    return json.loads(content) if member.lower().endswith(".json") else _plain(content.decode("utf-8-sig").strip())


def _plain(text: str) -> Label:
    return int(text) if text.removeprefix("-").isdecimal() else text


def _why_unlabelled(indexes: Sequence[_Index]) -> str:
    """Why no image of these shards has a label, and what to do."""
    index = next((index for index in indexes if index.images), indexes[0])
    endings = ", ".join(sorted(printable(ending) or "(none)" for ending in index.endings))
    if not index.images:
        held = f", but files ending in {endings}" if endings else ""
        return f"{index.shard} holds no images{held}"
    image = index.images[0].member
    key, shown = _key_to_last_dot(image), printable(image)
    if index.label_files:
        label = printable(index.label_files[0])
        if not any(_key_to_first_dot(label) == _key_to_first_dot(image) for label in index.label_files):
            return f"{index.shard}: no label has the name of an image; beside {shown} belongs {printable(key)}.cls"
        return (
            f"{index.shard}: {printable(key)} has no label; put its class's number into {printable(key)}.cls "
            f"({label} holds neither a number, nor a name, nor an object with {', '.join(LABEL_FIELDS)})"
        )
    if endings:
        return (
            f"{index.shard} holds images without labels: labels are read from {printable(key)}.cls or .json, not from "
            f"files ending in {endings}; rename or add them"
        )
    if "/" in image.removeprefix("./"):
        return (
            f"{index.shard} holds images in folders, such as {shown}, and no labels: folders in a tar file are not "
            f"read as classes; unpack it, or add labels, such as {printable(key)}.cls"
        )
    return f"{index.shard}: {printable(key)} has no label; put its class's number into {printable(key)}.cls"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else b""


def _check_end(shard: Path, tar: tarfile.TarFile) -> None:
    """Raises `DataError` for an archive without its end, which `tarfile` takes for a whole one, or with more behind."""
    stream = tar.fileobj
    assert stream is not None
    stream.seek(tar.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(f"cannot read {shard}: it is cut off, a tar file without its end; copy or make it again")
    if any(block):
        raise DataError(f"cannot read {shard}: it is damaged at byte {tar.offset:,}; copy or make it again")
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise DataError(
                f"cannot read {shard}: it goes on behind its end, as joined tar files do; unpack it "
                "(tar --ignore-zeros) and pack it again"
            )


@contextmanager
def _opened(shard: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(shard, "r:*") as tar:
            yield tar
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise DataError(f"cannot read {shard}: {_reason(shard, e)}") from e


def _reason(shard: Path, error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if not reason.startswith("file could not be opened"):
        return reason
    # The lines that follow say why it is none of the kinds that tarfile knows.
    return "it is not a tar file" if shard.stat().st_size else "it is empty"

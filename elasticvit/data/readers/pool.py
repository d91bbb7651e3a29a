"""Decodes a stream of images into files of bytes: here for the first seconds, then in several processes."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from elasticvit.data.readers.decode import Pixels, UnreadableImageError, pixels
from elasticvit.errors import DataError

CHUNK = 64
"""Images that travel to a process together."""
IDLE_S = 20
"""How long a process outlives one that was killed while it had others decode."""
PATIENCE_S = 2.0
"""How long this process decodes alone before others are started, which takes them a second or so."""


@dataclass(frozen=True)
class Place:
    """Where an image goes: the `position`-th of a file of equal squares."""

    file: Path
    position: int


@dataclass(frozen=True)
class Job:
    """One image to decode; `name` is what a report calls it."""

    name: str
    content: bytes | Path
    place: Place


@dataclass(frozen=True)
class Skipped:
    """An image that could not be decoded; its place holds nothing of use."""

    name: str
    reason: str
    place: Place


def decode_all(
    jobs: Iterable[Job],
    side: int,
    done: Callable[[int, list[Skipped]], None],
    *,
    workers: int | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Decode images into their places, files that exist; `done` is told how many more were, and which were skipped.

    At most a few chunks a worker are in memory. By default there is a worker a core, up to 8; what `done` and
    `jobs` raise ends the work.

    Raises:
        OSError: a file cannot be written.
        DataError: a worker died.
    """
    chunks = _chunks(iter(jobs))
    workers, start = workers or min(len(os.sched_getaffinity(0)), 8), time.monotonic()
    for chunk in chunks:
        done(len(chunk), decode_chunk(chunk, side))
        if workers > 1 and time.monotonic() - start >= patience_s:
            break
    try:
        for more, skipped in _spread(chunks, side, workers):
            done(more, skipped)
    except BrokenProcessPool as e:
        raise DataError("a process that decodes images died, perhaps for lack of memory; try again") from e


def decode_chunk(jobs: list[Job], side: int) -> list[Skipped]:
    """Decode images into their places, and say which could not be. Raises `OSError` where a file cannot be written."""
    skipped = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata and large images, which are no news here
        for job in jobs:
            try:
                found = pixels(job.content, side)
            except UnreadableImageError as e:
                skipped.append(Skipped(job.name, str(e), job.place))
            else:
                _write(job.place, found)
    return skipped


def _chunks(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    while chunk := list(islice(jobs, CHUNK)):
        yield chunk


def _spread(chunks: Iterator[list[Job]], side: int, workers: int) -> Iterator[tuple[int, list[Skipped]]]:
    """By processes that know nothing of the caller's main script: it need not be guarded against running again."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    first = next(chunks, None)
    if first is None:
        return
    parallel = Parallel(
        workers,
        backend="loky",
        return_as="generator_unordered",
        pre_dispatch="3*n_jobs",
        batch_size=1,
        idle_worker_timeout=IDLE_S,
    )
    decoded = parallel(delayed(_counted)(chunk, side) for chunk in chain([first], chunks))
    try:
        # Not `yield from`, which would close the other generator before this one hears of it.
        for each in decoded:  # noqa: UP028
            yield each
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of work that was begun in vain
            decoded.close()
        get_reusable_executor().shutdown(kill_workers=True)


def _counted(jobs: list[Job], side: int) -> tuple[int, list[Skipped]]:
    return len(jobs), decode_chunk(jobs, side)


def _write(place: Place, image: Pixels) -> None:
    """By plain writes, not through mapped memory: a full disk is an error here, and would be a killed process there."""
    rest, at = memoryview(image.tobytes()), place.position * image.size
    descriptor = os.open(place.file, os.O_WRONLY)
    try:
        while rest:
            written = os.pwrite(descriptor, rest, at)
            rest, at = rest[written:], at + written
    finally:
        os.close(descriptor)

"""Decodes a stream of images into files of bytes: in this process at first, then in several."""

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
"""Images that are sent to a process together."""
IDLE_S = 20
"""Idle time after which a decoding process ends, for when the process that started it was killed."""
PATIENCE_S = 2.0
"""How long this process decodes alone before it starts others, which takes about a second."""


@dataclass(frozen=True)
class Place:
    """Where a decoded image is stored: the `position`-th of a file of equal squares."""

    file: Path
    position: int


@dataclass(frozen=True)
class Job:
    """One image to decode; `name` is for reports."""

    name: str
    content: bytes | Path
    place: Place


@dataclass(frozen=True)
class Skipped:
    """An image that could not be decoded; the bytes at its place have no meaning."""

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
    """Decode images into their places, files that exist.

    At most a few chunks for each worker are in memory.

    Args:
        done: is called after each chunk with its number of images and those that were skipped; errors that it or
            `jobs` raises end the work.
        workers: processes; by default one for each core, up to 8.

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
    """Decode images into their places; returns those that could not be. Raises `OSError` if a write fails."""
    skipped = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata and large images
        for job in jobs:
            try:
                image = pixels(job.content, side)
            except UnreadableImageError as e:
                skipped.append(Skipped(job.name, str(e), job.place))
            else:
                _write(job.place, image)
    return skipped


def _chunks(jobs: Iterator[Job]) -> Iterator[list[Job]]:
    while chunk := list(islice(jobs, CHUNK)):
        yield chunk


def _spread(chunks: Iterator[list[Job]], side: int, workers: int) -> Iterator[tuple[int, list[Skipped]]]:
    """By processes that do not import the caller's main script, which needs no `__main__` guard."""
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
        # Not `yield from`, which would close the other generator before this one.
        for result in decoded:  # noqa: UP028
            yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about work that is given up
            decoded.close()
        get_reusable_executor().shutdown(kill_workers=True)


def _counted(jobs: list[Job], side: int) -> tuple[int, list[Skipped]]:
    return len(jobs), decode_chunk(jobs, side)


def _write(place: Place, image: Pixels) -> None:
    """With plain writes instead of mapped memory: a full disk then raises an error instead of SIGBUS."""
    rest, at = memoryview(image.tobytes()), place.position * image.size
    descriptor = os.open(place.file, os.O_WRONLY)
    try:
        while rest:
            written = os.pwrite(descriptor, rest, at)
            rest, at = rest[written:], at + written
    finally:
        os.close(descriptor)

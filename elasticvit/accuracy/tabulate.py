"""Sub-networks evaluated into a supernet's table, by one process or by several."""

import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from elasticvit.accuracy.best_predicted import best_predicted
from elasticvit.accuracy.evaluate import as_trained, calibrated, top1_of
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import FEWEST_SUBNETS, AccuracyTable, append, table_path
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError, PredictorError, StoppedError
from elasticvit.nn.device import best_device
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet
from elasticvit.progress import Report, Step, Stop, never

EVALUATED = 40
STEPS = 12
"""Of size, that the best are looked for in."""
Held = Literal["search", "val"]
Evaluate = Callable[[Sequence[Arch]], Generator[Accuracy, None, None]]
"""Accuracies of architectures, in their order and as they are found."""


def check_evaluated(n: int) -> None:
    """Raises `DataError` for a number of sub-networks, other than none, that no predictor can be fitted to."""
    if 0 < n < FEWEST_SUBNETS:
        raise DataError(
            f"search needs {FEWEST_SUBNETS} evaluated sub-networks or more, not {n}; --evaluated 0 leaves the table out"
        )


def here(supernet: SuperNet, data: ImageSet, split: Held = "search") -> Evaluate:
    """Evaluates in this process, when asked for the next; on the accelerator, where there is one."""
    images, scaled = (data.search if split == "search" else data.val), as_trained(supernet, data)
    device = best_device()
    return lambda archs: (top1_of(calibrated(supernet, arch, data).to(device), images, scaled) for arch in archs)


def in_processes(file: Path, processes: int, split: Held = "search") -> Evaluate:
    """Evaluates a file's sub-networks in so many processes with one thread each; one is this process.

    Raises:
        SupernetFileError, DataError: the file, or the images that its card names, cannot be had.
    """
    supernet, data = _loaded(file)
    if processes == 1:
        return here(supernet, data, split)

    def evaluate(archs: Sequence[Arch]) -> Generator[Accuracy, None, None]:
        # Not forked: torch's threads do not survive that.
        pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin)
        try:
            yield from pool.map(_one, [file] * len(archs), archs, [split] * len(archs))
        finally:
            pool.shutdown(cancel_futures=True)

    return evaluate


def tabulate(
    supernet: SuperNet,
    data: ImageSet,
    path: Path,
    n: int,
    report: Report,
    stop: Stop = never,
    evaluate: Evaluate | None = None,
    best: int = 0,
) -> None:
    """Evaluate n sub-networks of all sizes into a table's file, which appears when it is whole.

    Args:
        evaluate: does the work, by default in this process.
        best: so many more, at most, that are predicted best from the n: what searches answer with is unlike what is
            drawn at random, and a predictor that has seen nothing like it answers too little.

    Raises:
        StoppedError: `stop` said so; what is evaluated is kept beside it and not done again.
        PredictorError: the file cannot be written.
    """
    part, space = path.with_name(f".{path.name}"), supernet.space
    if not evaluated_codes(part, space):
        part.unlink(missing_ok=True)
    work = evaluate or here(supernet, data)
    codes = spread(space, n)
    _evaluate_into(part, space, codes, work, Stage("evaluate", report, stop))
    if best:
        predictor = fit_accuracy(_rows(AccuracyTable.load(part), codes))
        # The first step of size is the smallest alone, which is known.
        steps = min(STEPS, best + 1)
        more = best_predicted(predictor, steps, best // (steps - 1), seed=0)
        _evaluate_into(part, space, more, work, Stage("best", report, stop))
    part.replace(path)


@dataclass(frozen=True)
class Stage:
    """What is told of a part of the work, and who may end it."""

    name: str
    report: Report
    stop: Stop


def _evaluate_into(part: Path, space: Space, codes: Codes, evaluate: Evaluate, stage: Stage) -> None:
    """Append to the file what is not in it. Raises `StoppedError`."""
    done = evaluated_codes(part, space)
    missing = [space.decode(code) for code in codes if tuple(code) not in done]
    # Closed at the end, so that processes whose results nobody waits for end as well.
    with closing(evaluate(missing)) as found:
        for i, code in enumerate(codes, start=1):
            if tuple(code) not in done:
                if stage.stop():
                    raise StoppedError(f"stopped after evaluating {i - 1} of {len(codes)} sub-networks")
                accuracy = next(found)
                append(part, space, accuracy.images, code[None], [accuracy.value])
            stage.report(Step(stage.name, i, len(codes)))


def _rows(table: AccuracyTable, codes: Codes) -> AccuracyTable:
    """Only these of a table."""
    wanted = set(map(tuple, codes.tolist()))
    rows = np.array([tuple(code) in wanted for code in table.codes.tolist()])
    return replace(table, codes=table.codes[rows], top1=table.top1[rows])


def tabulate_file(file: Path, n: int, processes: int, report: Report, stop: Stop = never, best: int = 0) -> Path:
    """Evaluate n sub-networks of a supernet file, and the `best`, into the table beside it; the table's path.

    Raises:
        StoppedError: the same call goes on from there.
        SupernetFileError, DataError, PredictorError: file, images or table cannot be used.
    """
    supernet, data = _loaded(file)
    table = table_path(file)
    tabulate(supernet, data, table, n, report, stop, in_processes(file, processes), best)
    return table


def evaluated_codes(path: Path, space: Space) -> set[tuple[int, ...]]:
    """Codes of a table's file; none where it is missing, damaged or of another space."""
    try:
        table = AccuracyTable.load(path)
    except PredictorError:
        return set()
    return set(map(tuple, table.codes.tolist())) if table.space == space else set()


def spread(space: Space, n: int) -> Codes:
    """n different codes of all sizes, always the same: the smallest, the largest, and evenly by rank of MACs between
    them, shape (n, D). Raises `DataError` for fewer than two."""
    if n < 2:
        raise DataError(f"sub-networks are evaluated from the smallest to the largest: 2 or more, not {n}")
    codes = np.unique(space.sample(np.random.default_rng(0), 100 * n), axis=0)
    codes = codes[np.argsort(CostTable.of_macs(space).total(codes), kind="stable")]
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    inner = codes[~(codes[:, None] == ends).all(axis=2).any(axis=1)]
    ranks = np.linspace(0, len(inner) - 1, n - 2).round().astype(int)
    return np.concatenate([ends[:1], inner[ranks], ends[1:]])


def _begin() -> None:
    """Of a process that evaluates: one thread, and Ctrl-C is for the one that gives out the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.nice(5)


def _one(file: Path, arch: Arch, split: Held) -> Accuracy:
    return next(here(*_kept(file), split)([arch]))


def _loaded(file: Path) -> tuple[LoadedSuperNet, ImageSet]:
    supernet = load_supernet(file)
    return supernet, load_named(supernet.card.data)


# Only for processes that evaluate one file and end: here a file may change under its name.
_kept = lru_cache(maxsize=1)(_loaded)

"""Evaluation of sub-networks into the accuracy table of a supernet, in one process or several."""

import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from elasticvit.accuracy.best_predicted import best_predicted
from elasticvit.accuracy.evaluate import TOLD_ON, as_trained, card_of, held_out_accuracy, recalibrated
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import FEWEST_SUBNETS, AccuracyTable
from elasticvit.accuracy.unfinished_table import UnfinishedTable
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.archs.distinct import distinct
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.data.image_set import Held, ImageSet, load_named
from elasticvit.errors import DataError, PredictorError, StoppedError
from elasticvit.nn.device import best_device
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet
from elasticvit.progress import Report, Say, Step, Stop, never, unheard

EVALUATED = 40
STEPS = 12
"""Steps of size in which the best predicted sub-networks are searched."""
BOTH: Sequence[Held] = ("search", "val")
Evaluate = Callable[[Sequence[Arch]], Generator[tuple[Accuracy, ...], None, None]]
"""Yields the accuracies of architectures, in their order, as they are measured: of each on every split asked for."""


def check_evaluated(n: int) -> None:
    """Raise `DataError` for a number of sub-networks, other than 0, that is too small to fit a predictor to."""
    if 0 < n < FEWEST_SUBNETS:
        raise DataError(
            f"search needs {FEWEST_SUBNETS} evaluated sub-networks or more, not {n}; --evaluated 0 writes no table"
        )


def here(supernet: SuperNet, data: ImageSet, splits: Sequence[Held] = BOTH, most_val: int | None = TOLD_ON) -> Evaluate:
    """Evaluates in this process, one at a time as they are requested; on the accelerator if there is one.

    Args:
        most_val: maximum number of images of `val`; None for all.
    """
    scaled, device, card = as_trained(supernet, data), best_device(), card_of(supernet)
    most: dict[Held, int | None] = {"search": None, "val": most_val}

    def accuracies(arch: Arch) -> tuple[Accuracy, ...]:
        net = recalibrated(supernet, arch, data).to(device)
        return tuple(held_out_accuracy(net, card, scaled, split, most[split]) for split in splits)

    return lambda archs: (accuracies(arch) for arch in archs)


def in_processes(file: Path, processes: int, splits: Sequence[Held] = BOTH, most_val: int | None = TOLD_ON) -> Evaluate:
    """Evaluates sub-networks of a file in `processes` processes with one thread each; 1 is this process. Arguments as
    of `here`.

    Raises:
        SupernetFileError, DataError: the file, or the images that its card names, cannot be loaded.
    """
    supernet, data = _loaded(file)
    if processes == 1:
        return here(supernet, data, splits, most_val)

    def evaluate(archs: Sequence[Arch]) -> Generator[tuple[Accuracy, ...], None, None]:
        # Spawned: torch's threads do not survive a fork.
        pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin)
        try:
            yield from pool.map(partial(_one, file, splits, most_val), archs)
        finally:
            pool.shutdown(cancel_futures=True)

    return evaluate


def tabulate(
    supernet: SuperNet,
    data: ImageSet,
    file: Path,
    n: int,
    report: Report,
    stop: Stop = never,
    evaluate: Evaluate | None = None,
    best: int = 0,
    say: Say = unheard,
) -> Path:
    """Evaluate n sub-networks of all sizes into the accuracy table beside a supernet file; returns its path.

    The accuracy table appears when it is complete. Finished evaluations of an interrupted call are kept for
    the next one, unless the supernet file has changed.

    Args:
        file: the supernet file that holds `supernet`.
        evaluate: runs the evaluations, on `search` and on `val`, by default in this process.
        best: maximum number of further sub-networks, those with the best accuracy predicted from the n. Searches return
            such networks, which random ones do not resemble; a predictor fitted without them predicts too little.
        say: gets a sentence if the evaluations of an interrupted call are of another supernet and are discarded.

    Raises:
        StoppedError: `stop` returned True.
        SupernetFileError: the supernet file cannot be read.
        PredictorError: the accuracy table cannot be written, or another process is writing it.
    """
    space = supernet.space
    with UnfinishedTable.open(file, space, say) as table:
        work = evaluate or here(supernet, data)
        codes = spread(space, n)
        _evaluate_into(table, codes, work, Stage("evaluate", report, stop))
        if best:
            predictor = fit_accuracy(_rows(table.load(), codes))
            # The first step of size is the smallest network alone, which is evaluated already.
            steps = min(STEPS, best + 1)
            more = best_predicted(predictor, steps, best // (steps - 1), seed=0)
            _evaluate_into(table, more, work, Stage("best", report, stop))
        return table.finish()


@dataclass(frozen=True)
class Stage:
    """A named stage of the work, with its progress report and its stop condition."""

    name: str
    report: Report
    stop: Stop


def _evaluate_into(table: UnfinishedTable, codes: Codes, evaluate: Evaluate, stage: Stage) -> None:
    """Append the codes that an accuracy table does not have. Raises `StoppedError`."""
    done = evaluated_codes(table.path, table.space)
    missing = [table.space.decode(code) for code in codes if tuple(code) not in done]
    # Closed at the end, which ends the processes whose results are no longer needed.
    with closing(evaluate(missing)) as accuracies:
        for i, code in enumerate(codes, start=1):
            if tuple(code) not in done:
                if stage.stop():
                    raise StoppedError(f"stopped after evaluating {i - 1} of {len(codes)} sub-networks")
                table.append(code, *next(accuracies))
            stage.report(Step(stage.name, i, len(codes)))


def _rows(table: AccuracyTable, codes: Codes) -> AccuracyTable:
    """An accuracy table with these codes only."""
    kept = set(map(tuple, codes.tolist()))
    rows = np.array([tuple(code) in kept for code in table.codes.tolist()])
    return replace(table, codes=table.codes[rows], top1=table.top1[rows], val=table.val[rows])


def tabulate_file(
    file: Path, n: int, processes: int, report: Report, stop: Stop = never, best: int = 0, say: Say = unheard
) -> Path:
    """Evaluate n sub-networks of a supernet file, and the `best`, into the accuracy table beside it; returns its path.

    Raises:
        StoppedError: stopped; the same call continues.
        SupernetFileError, DataError, PredictorError: file, images or accuracy table cannot be used.
    """
    supernet, data = _loaded(file)
    return tabulate(supernet, data, file, n, report, stop, in_processes(file, processes), best, say)


def evaluated_codes(path: Path, space: Space) -> set[tuple[int, ...]]:
    """The codes in an accuracy table; none if it is missing, damaged or of another space."""
    try:
        table = AccuracyTable.load(path, space)
    except PredictorError:
        return set()
    return set(map(tuple, table.codes.tolist()))


def spread(space: Space, n: int) -> Codes:
    """n different codes of all sizes, shape (n, D), always the same: the smallest, the largest, and between them evenly
    by rank of MACs. Raises `DataError` for fewer than two."""
    if n < 2:
        raise DataError(f"at least 2 sub-networks are evaluated, the smallest and the largest, not {n}")
    codes = distinct(space.sample(np.random.default_rng(0), 100 * n))
    codes = codes[np.argsort(CostTable.of_macs(space).total(codes), kind="stable")]
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    inner = codes[~(codes[:, None] == ends).all(axis=2).any(axis=1)]
    ranks = np.linspace(0, len(inner) - 1, n - 2).round().astype(int)
    return np.concatenate([ends[:1], inner[ranks], ends[1:]])


def _begin() -> None:
    """Initialise a process of the pool: one thread, and Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.nice(5)


def _one(file: Path, splits: Sequence[Held], most_val: int | None, arch: Arch) -> tuple[Accuracy, ...]:
    return next(here(*_kept(file), splits, most_val)([arch]))


def _loaded(file: Path) -> tuple[LoadedSuperNet, ImageSet]:
    supernet = load_supernet(file)
    return supernet, load_named(supernet.card.data)


# Only for processes of the pool, which evaluate one file and end: elsewhere a file may be replaced by another.
_kept = lru_cache(maxsize=1)(_loaded)

"""The supernet that a home folder starts with: trained, and enough of its sub-networks evaluated for a search.

Every part is kept under a hidden name until it is whole, and what a killed run has done is not done again.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from elasticvit.accuracy import accuracy_of
from elasticvit.accuracy_table import AccuracyTable, append
from elasticvit.costs import CostTable
from elasticvit.errors import DataError, PredictorError, SupernetFileError
from elasticvit.nn.files import Card, LoadedSuperNet, load_supernet, save_supernet
from elasticvit.nn.supernet import SuperNet
from elasticvit.space import Codes, Space
from elasticvit.training.checkpoints import StoppedError, UnusableCheckpointError
from elasticvit.training.data import ImageSet, load_named
from elasticvit.training.loop import train
from elasticvit.training.progress import Report, Step, Stop, bars, never
from elasticvit.training.recipes import Recipe, digits_minutes

Say = Callable[[str], None]
EVALUATED = 40


def unheard(_: str) -> None:
    """Say nothing."""


def prepare_default(
    folder: Path,
    say: Say = unheard,
    *,
    recipe: Recipe | None = None,
    evaluated: int = EVALUATED,
    report: Report | None = None,
    stop: Stop = never,
) -> Path:
    """See to it that `folder` holds the default supernet `NAME.safetensors` and `NAME.accuracy.jsonl`; the former.

    What is there and whole is kept. `say` gets a sentence before anything that takes time; progress goes to `report`,
    by default to bars on standard error.

    Raises:
        StoppedError: `stop` said so; the next call goes on from there.
        SupernetFileError, CheckpointError, PredictorError: the folder cannot be written.
    """
    recipe = recipe or digits_minutes()
    path = folder / f"{recipe.name}.safetensors"
    with ExitStack() as stack:
        report = report or stack.enter_context(bars())
        supernet = _whole(path)
        if supernet is None:
            say(f"training the default supernet '{recipe.name}', {recipe.steps} steps, once for all")
            supernet = _train_into(path, recipe, report, stop)
        _remove(folder, f".{recipe.name}.checkpoint*", f".{path.name}.*")
        if len(_evaluated(table_path(path), supernet.space)) < evaluated:
            say(f"evaluating {evaluated} of its sub-networks, from which all others are predicted")
            tabulate(supernet, load_named(supernet.card.data), table_path(path), evaluated, report, stop)
    return path


def card(recipe: Recipe, data: ImageSet) -> Card:
    """The card of a supernet of this recipe: everything that made it."""
    provenance = {"recipe": asdict(recipe), "images": len(data.train), "torch": torch.__version__}
    return Card(recipe.name, data.class_names, data.name, data.mean, data.std, provenance=provenance)


def table_path(supernet: Path) -> Path:
    """Where the evaluated sub-networks of a supernet file are kept."""
    return supernet.with_suffix(".accuracy.jsonl")


def tabulate(supernet: SuperNet, data: ImageSet, path: Path, n: int, report: Report, stop: Stop = never) -> None:
    """Evaluate n sub-networks of all sizes into a table's file, which appears when it is whole.

    Raises:
        StoppedError: `stop` said so; what is evaluated is kept beside it and not done again.
        PredictorError: the file cannot be written.
    """
    part, space = path.with_name(f".{path.name}"), supernet.space
    done = _evaluated(part, space)
    if not done:
        part.unlink(missing_ok=True)
    codes = spread(space, n)
    for i, code in enumerate(codes, start=1):
        if tuple(code) not in done:
            if stop():
                raise StoppedError(f"stopped after evaluating {i - 1} of {n} sub-networks")
            accuracy = accuracy_of(supernet, space.decode(code), data)
            append(part, space, accuracy.n, code[None], [accuracy.top1])
        report(Step("evaluate", i, len(codes)))
    part.replace(path)


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


def _train_into(path: Path, recipe: Recipe, report: Report, stop: Stop) -> LoadedSuperNet:
    checkpoint, data = path.with_name(f".{recipe.name}.checkpoint"), load_named(recipe.data)
    try:
        supernet = train(recipe, data, checkpoint=checkpoint, report=report, stop=stop)
    except UnusableCheckpointError:
        # Nobody asked for this file, so nobody has to be asked before it goes.
        checkpoint.unlink()
        supernet = train(recipe, data, checkpoint=checkpoint, report=report, stop=stop)
    # Accuracies of an older supernet are not this one's.
    _remove(path.parent, table_path(path).name, f".{table_path(path).name}")
    save_supernet(path, supernet, card(recipe, data))
    return load_supernet(path)


def _whole(path: Path) -> LoadedSuperNet | None:
    """The supernet of a file; None where there is none or a damaged one."""
    try:
        return load_supernet(path)
    except SupernetFileError:
        return None


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _evaluated(path: Path, space: Space) -> set[tuple[int, ...]]:
    """Codes of a table's file; none where it is missing, damaged or of another space."""
    try:
        table = AccuracyTable.load(path)
    except PredictorError:
        return set()
    return set(map(tuple, table.codes.tolist())) if table.space == space else set()

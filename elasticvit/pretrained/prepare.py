"""The default supernet of a home folder: one that ships with this package, or one that is trained on this machine.

Files have hidden names until they are complete, and an interrupted run continues where it stopped.
"""

from contextlib import ExitStack
from pathlib import Path

from elasticvit import pretrained
from elasticvit.accuracy.tabulate import EVALUATED, evaluated_codes, tabulate
from elasticvit.atomic import write_atomically
from elasticvit.data.image_set import load_named
from elasticvit.errors import DataError, SupernetFileError
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet, save_supernet
from elasticvit.nn.supernet_header import ENDING, table_path
from elasticvit.progress import Report, Say, Stop, bars, never, unheard
from elasticvit.training.checkpoints import UnusableCheckpointError
from elasticvit.training.loop import train
from elasticvit.training.recipes import Recipe, card, digits_minutes


def prepare_default(
    folder: Path,
    say: Say = unheard,
    *,
    name: str | None = None,
    recipe: Recipe | None = None,
    evaluated: int = EVALUATED,
    report: Report | None = None,
    stop: Stop = never,
) -> Path:
    """Make sure that `folder` has the default supernet and its accuracy table; returns the supernet file.

    Complete files are kept. `say` gets a sentence before every slow step; progress goes to `report`, by default to bars
    on standard error.

    Args:
        name: of a supernet that ships with this package, `digits`, which is trained here, or of a supernet in `folder`;
            by default `elasticvit.pretrained.default_name`.
        recipe: train a supernet by this training recipe instead.

    Raises:
        StoppedError: `stop` returned True; the next call continues.
        SupernetFileError, CheckpointError, PredictorError: the folder cannot be written.
        DataError: there is no supernet of that name.
    """
    name = name or pretrained.default_name()
    if recipe is None and (file := pretrained.shipped(name)) is not None:
        return take_shipped(file, folder, say)
    if recipe is None and name != pretrained.TRAINED_HERE:
        return _own(folder, name)
    return _trained(folder, recipe or digits_minutes(), evaluated, say, report, stop)


def take_shipped(file: Path, folder: Path, say: Say = unheard) -> Path:
    """Copy a shipped supernet file and its accuracy table to `folder`, unless it has a complete supernet of that name.

    Raises:
        SupernetFileError: the folder cannot be written.
    """
    target = folder / file.name
    is_shipped = target.is_file() and target.read_bytes() == file.read_bytes()
    if not is_shipped and _whole(target) is not None:
        say(f"keeping {target}, which differs from the shipped file; remove it to get the shipped one")
        return target
    # The accuracy table first: a supernet without it cannot be searched.
    for source, to in ((table_path(file), table_path(target)), (file, target)):
        data = source.read_bytes()
        if not to.is_file() or to.read_bytes() != data:
            write_atomically(to, data, error=SupernetFileError, parents=True)
    return target


def _own(folder: Path, name: str) -> Path:
    path = folder / f"{name}{ENDING}"
    if not path.is_file():
        ships = sorted(file.stem for file in pretrained.FOLDER.glob(f"*{ENDING}"))
        there = sorted(file.stem for file in folder.glob(f"*{ENDING}"))
        known = ", ".join(sorted({*ships, *there, pretrained.TRAINED_HERE}))
        raise DataError(f"there is no supernet {name!r} in {folder}; known: {known}")
    return path


def _trained(folder: Path, recipe: Recipe, evaluated: int, say: Say, report: Report | None, stop: Stop) -> Path:
    path = folder / f"{recipe.name}{ENDING}"
    with ExitStack() as stack:
        report = report or stack.enter_context(bars())
        supernet = _whole(path)
        if supernet is None:
            say(f"training the supernet '{recipe.name}' once, {recipe.steps} steps")
            supernet = _train_into(path, recipe, report, stop)
        _remove(folder, f".{recipe.name}.checkpoint*", f".{path.name}.*")
        if len(evaluated_codes(table_path(path), supernet.space)) < evaluated:
            say(f"evaluating {evaluated} of its sub-networks, to fit the accuracy predictor")
            tabulate(supernet, load_named(supernet.card.data), path, evaluated, report, stop, say=say)
    return path


def _train_into(path: Path, recipe: Recipe, report: Report, stop: Stop) -> LoadedSuperNet:
    checkpoint, data = path.with_name(f".{recipe.name}.checkpoint"), load_named(recipe.data)
    supernet_card = card(recipe, data)
    try:
        supernet = train(recipe, data, checkpoint=checkpoint, report=report, stop=stop, card=supernet_card)
    except UnusableCheckpointError:
        # The user did not ask for this checkpoint, so it is removed without asking.
        checkpoint.unlink()
        supernet = train(recipe, data, checkpoint=checkpoint, report=report, stop=stop, card=supernet_card)
    # The accuracy table of an older supernet does not apply to this one.
    _remove(path.parent, table_path(path).name)
    save_supernet(path, supernet, supernet_card)
    return load_supernet(path)


def _whole(path: Path) -> LoadedSuperNet | None:
    """The supernet of a file; None if it is missing or damaged."""
    try:
        return load_supernet(path)
    except SupernetFileError:
        return None


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)

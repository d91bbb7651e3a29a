"""The supernet that a home folder starts with: one that ships with this package, or one that is trained here.

Every part is kept under a hidden name until it is whole, and what a killed run has done is not done again.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from elasticvit import pretrained
from elasticvit.accuracy.tabulate import EVALUATED, evaluated_codes, table_path, tabulate
from elasticvit.atomic import write_atomically
from elasticvit.data.image_set import load_named
from elasticvit.errors import DataError, SupernetFileError
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet, save_supernet
from elasticvit.progress import Report, Stop, bars, never
from elasticvit.training.checkpoints import UnusableCheckpointError
from elasticvit.training.loop import train
from elasticvit.training.recipes import Recipe, card, digits_minutes

Say = Callable[[str], None]


def unheard(_: str) -> None:
    """Say nothing."""


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
    """See to it that `folder` holds the default supernet `NAME.safetensors` and `NAME.accuracy.jsonl`; the former.

    What is there and whole is kept. `say` gets a sentence before anything that takes time; progress goes to `report`,
    by default to bars on standard error.

    Args:
        name: of a supernet that ships with this package, of `digits`, which is trained here, or of one in `folder`;
            by default `elasticvit.pretrained.default_name`.
        recipe: train by this one instead.

    Raises:
        StoppedError: `stop` said so; the next call goes on from there.
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
    """Copy a supernet file that ships, and its table, to `folder`, unless a whole supernet of its name is there.

    Raises:
        SupernetFileError: the folder cannot be written.
    """
    target = folder / file.name
    ours = target.is_file() and target.read_bytes() == file.read_bytes()
    if not ours and _whole(target) is not None:
        say(f"keeping {target}, which is not the one that ships; remove it to have that")
        return target
    # The table first: a supernet that is there can be searched.
    for source, to in ((table_path(file), table_path(target)), (file, target)):
        data = source.read_bytes()
        if not to.is_file() or to.read_bytes() != data:
            write_atomically(to, data, error=SupernetFileError, parents=True)
    return target


def _own(folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        ships = sorted(file.stem for file in pretrained.FOLDER.glob("*.safetensors"))
        there = sorted(file.stem for file in folder.glob("*.safetensors"))
        known = ", ".join(sorted({*ships, *there, pretrained.TRAINED_HERE}))
        raise DataError(f"there is no supernet {name!r} in {folder}; known: {known}")
    return path


def _trained(folder: Path, recipe: Recipe, evaluated: int, say: Say, report: Report | None, stop: Stop) -> Path:
    path = folder / f"{recipe.name}.safetensors"
    with ExitStack() as stack:
        report = report or stack.enter_context(bars())
        supernet = _whole(path)
        if supernet is None:
            say(f"training the supernet '{recipe.name}', {recipe.steps} steps, once for all")
            supernet = _train_into(path, recipe, report, stop)
        _remove(folder, f".{recipe.name}.checkpoint*", f".{path.name}.*")
        if len(evaluated_codes(table_path(path), supernet.space)) < evaluated:
            say(f"evaluating {evaluated} of its sub-networks, from which all others are predicted")
            tabulate(supernet, load_named(supernet.card.data), table_path(path), evaluated, report, stop)
    return path


def _train_into(path: Path, recipe: Recipe, report: Report, stop: Stop) -> LoadedSuperNet:
    checkpoint, data = path.with_name(f".{recipe.name}.checkpoint"), load_named(recipe.data)
    told = card(recipe, data)
    try:
        supernet = train(recipe, data, checkpoint=checkpoint, report=report, stop=stop, card=told)
    except UnusableCheckpointError:
        # Nobody asked for this file, so nobody has to be asked before it goes.
        checkpoint.unlink()
        supernet = train(recipe, data, checkpoint=checkpoint, report=report, stop=stop, card=told)
    # Accuracies of an older supernet are not this one's.
    _remove(path.parent, table_path(path).name, f".{table_path(path).name}")
    save_supernet(path, supernet, told)
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

"""What `elasticvit train` and `elasticvit evaluate` do."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from elasticvit.accuracy import Accuracy, accuracy_of
from elasticvit.arch import Arch
from elasticvit.nn.files import load_supernet, save_supernet
from elasticvit.training.data import load_named
from elasticvit.training.loop import train as run
from elasticvit.training.prepare import EVALUATED, card, table_path, tabulate
from elasticvit.training.progress import Step, Stop, bars
from elasticvit.training.recipes import named_recipe


def train(
    recipe: str, out: Path, *, steps: int | None = None, seed: int | None = None, evaluated: int = EVALUATED
) -> Path:
    """Train a supernet by a named recipe into the file `out`, and evaluate sub-networks into a table beside it.

    SIGINT and SIGTERM end it after the step; the checkpoint beside `out` lets the same command go on from there.

    Args:
        steps, seed: instead of the recipe's.
        evaluated: how many sub-networks to evaluate; 0 for none.

    Raises:
        DataError: no such recipe, or its loss is no longer a number.
        UnusableCheckpointError: the checkpoint beside `out` is damaged or of another recipe.
        StoppedError: told to stop; what is done is kept.
        CheckpointError, SupernetFileError, PredictorError: the disk refuses.
    """
    chosen = named_recipe(recipe)
    chosen = replace(chosen, steps=steps or chosen.steps, seed=chosen.seed if seed is None else seed)
    data, checkpoint = load_named(chosen.data), out.with_name(f".{out.name}.checkpoint")
    table = table_path(out)
    if not checkpoint.exists():
        # What an earlier command left half evaluated was another supernet's.
        table.with_name(f".{table.name}").unlink(missing_ok=True)
    with stop_on_signals() as stop, bars() as report:
        supernet = run(chosen, data, checkpoint=checkpoint, report=report, stop=stop)
        table.unlink(missing_ok=True)
        save_supernet(out, supernet, card(chosen, data))
        if evaluated:
            tabulate(supernet, data, table, evaluated, report, stop)
        checkpoint.unlink(missing_ok=True)
    return out


def evaluate(supernet: Path, archs: Sequence[Arch]) -> list[Accuracy]:
    """Measure sub-networks of a supernet file on the held-out images that its card names.

    Raises:
        SupernetFileError, SpaceError: no such file, or an architecture outside its space.
        DataError: its images cannot be had.
    """
    loaded, found = load_supernet(supernet), []
    data = load_named(loaded.card.data)
    with bars() as report:
        for i, arch in enumerate(archs, start=1):
            found.append(accuracy_of(loaded, loaded.space.adopt(arch), data))
            report(Step("evaluate", i, len(archs)))
    return found


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turns SIGINT and SIGTERM into a wish that is asked for; for the main thread, elsewhere nobody signals."""
    wish = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wish.is_set
        return

    def heard(_number: int, _frame: FrameType | None) -> None:
        wish.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

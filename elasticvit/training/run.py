"""What `elasticvit train` and `elasticvit evaluate` do."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from elasticvit.accuracy.evaluate import accuracy_of
from elasticvit.accuracy.table import table_path
from elasticvit.accuracy.tabulate import EVALUATED, check_evaluated, tabulate
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.data.image_set import load_named
from elasticvit.errors import StoppedError
from elasticvit.nn.supernet_file import load_supernet, save_supernet
from elasticvit.progress import Step, Stop, bars
from elasticvit.training.allocator import keep_freed_memory
from elasticvit.training.distributed import TIMEOUT_S, joined
from elasticvit.training.logs import logs_to
from elasticvit.training.loop import train as run
from elasticvit.training.recipes import card, named_recipe
from elasticvit.training.snapshot import checkpoint_path
from elasticvit.training.teachers import load_teacher


def train(
    recipe: str,
    out: Path,
    *,
    steps: int | None = None,
    seed: int | None = None,
    data: str | None = None,
    evaluated: int = EVALUATED,
    logs: Path | None = None,
    tensorboard: Path | None = None,
    teachers: Sequence[Path] = (),
    tables: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Path | None:
    """Train a supernet by a named recipe into the file `out`, and evaluate sub-networks into a table beside it.

    SIGINT and SIGTERM end it after the step; the checkpoint beside `out` lets the same command go on from there. Under
    torchrun all processes train, and the first writes.

    Args:
        steps, seed, data: instead of the recipe's; a space gets as many classes as the data has.
        evaluated: how many sub-networks to evaluate, 8 or more; 0 for none.
        logs: a JSON line a step; by default `NAME.train.jsonl` beside `out`.
        tensorboard: a folder for TensorBoard.
        teachers: files that `load_teacher` reads.
        tables: a folder of sub-networks by level, as `elasticvit.costs.level_tables.build_level_tables` leaves it.
        timeout_s: how long a process waits for the others of its run.

    Returns:
        The file; None in all processes but the first.

    Raises:
        DataError: no such recipe, data or teacher, or the loss is no longer a number.
        UnusableCheckpointError: the checkpoint beside `out` is damaged or of another recipe.
        StoppedError: told to stop; what is done is kept.
        CheckpointError, SupernetFileError, PredictorError, LogError: the disk refuses.
        DistributedError: another process of the run is gone.
    """
    check_evaluated(evaluated)
    chosen = named_recipe(recipe)
    chosen = replace(chosen, steps=steps or chosen.steps, seed=chosen.seed if seed is None else seed)
    chosen = replace(chosen, data=data or chosen.data)
    checkpoint, table = checkpoint_path(out), table_path(out)
    keep_freed_memory()
    with stop_on_signals() as stop, bars() as report:
        with joined(timeout_s) as world, logs_to(logs or out.with_suffix(".train.jsonl"), tensorboard) as log:
            images = world.in_turn(lambda: load_named(chosen.data))
            chosen = replace(chosen, space=replace(chosen.space, classes=len(images.class_names)))
            if world.first and not checkpoint.exists():
                # What an earlier command left half evaluated was another supernet's.
                table.with_name(f".{table.name}").unlink(missing_ok=True)
            try:
                supernet = run(
                    chosen,
                    images,
                    checkpoint=checkpoint,
                    report=report,
                    stop=stop,
                    logs=log,
                    card=card(chosen, images),
                    teachers=[load_teacher(path, images, world.device) for path in teachers],
                    tables=tables,
                    world=world,
                )
            except StoppedError:
                if world.first:
                    raise
        if not world.first:
            return None
        table.unlink(missing_ok=True)
        save_supernet(out, supernet, card(chosen, images))
        if evaluated:
            tabulate(supernet, images, table, evaluated, report, stop)
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

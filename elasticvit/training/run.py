"""The commands `elasticvit train` and `elasticvit evaluate`."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from elasticvit.accuracy.evaluate import accuracy_of
from elasticvit.accuracy.tabulate import EVALUATED, check_evaluated, tabulate
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.atomic import check_out
from elasticvit.data.image_set import load_named, shadowed_folder
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.supernet_file import load_supernet, replace_supernet
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
    """Train a supernet by a named training recipe into the file `out`, and evaluate its accuracy table.

    SIGINT and SIGTERM end it after the current step; the same call continues from the checkpoint beside `out`. Under
    torchrun all processes train, and the first one writes.

    Args:
        steps, seed, data: replace those of the training recipe; the space gets the number of classes of the data.
        evaluated: number of sub-networks to evaluate, 8 or more; 0 for none.
        logs: a file of JSON lines, one per step; by default `NAME.train.jsonl` beside `out`.
        tensorboard: a folder for TensorBoard.
        teachers: files that `load_teacher` reads.
        tables: a folder of sub-networks by level, as written by `elasticvit.costs.level_tables.build_level_tables`.
        timeout_s: how long a process waits for the other processes of its run.

    Returns:
        The file in the first process, None in all others.

    Raises:
        DataError: no such training recipe, data or teacher, `out` is a folder or a teacher, or the loss is not finite.
        UnusableCheckpointError: the checkpoint beside `out` is damaged, or of another training recipe, other
            classes or other images.
        StoppedError: stopped by a signal; the checkpoint is kept.
        CheckpointError, SupernetFileError, PredictorError, LogError: a file cannot be written.
        DistributedError: another process of the run has ended.
    """
    check_evaluated(evaluated)
    check_out(out, teachers, DataError, parents=True)
    chosen = named_recipe(recipe)
    chosen = replace(chosen, steps=steps or chosen.steps, seed=chosen.seed if seed is None else seed)
    chosen = replace(chosen, data=data or chosen.data)
    checkpoint = checkpoint_path(out)
    if data and (doubt := shadowed_folder(data)):
        sys.stderr.write(f"elasticvit: {doubt}\n")
    keep_freed_memory()
    with stop_on_signals() as stop, bars() as report:
        with joined(timeout_s) as world, logs_to(logs or out.with_suffix(".train.jsonl"), tensorboard) as log:
            images = world.in_turn(lambda: load_named(chosen.data))
            chosen = replace(chosen, space=replace(chosen.space, classes=len(images.class_names)))
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
        replace_supernet(out, supernet, card(chosen, images))
        if evaluated:
            tabulate(supernet, images, out, evaluated, report, stop)
        checkpoint.unlink(missing_ok=True)
    return out


def evaluate(supernet: Path, archs: Sequence[Arch]) -> list[Accuracy]:
    """Measure sub-networks of a supernet file on `val` of the images that its card names.

    Raises:
        SupernetFileError, SpaceError: no such file, or an architecture outside its space.
        DataError: its images are missing, or their classes are not those of the supernet.
    """
    loaded, accuracies = load_supernet(supernet), list[Accuracy]()
    data = load_named(loaded.card.data)
    with bars() as report:
        for i, arch in enumerate(archs, start=1):
            accuracies.append(accuracy_of(loaded, loaded.space.adopt(arch), data))
            report(Step("evaluate", i, len(archs)))
    return accuracies


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A function that says whether SIGINT or SIGTERM has come, in place of their handlers.

    Outside of the main thread, which alone may set handlers, it never says so.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        received.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Progress of long tasks: what they report, and progress bars on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Step:
    """`done` of `total` steps of a phase, with the latest loss while training."""

    phase: str
    done: int
    total: int
    loss: float | None = None


Report = Callable[[Step], None]
Stop = Callable[[], bool]
Say = Callable[[str], None]
"""Gets a sentence for the user."""


def silent(_: Step) -> None:
    """Report nothing."""


def unheard(_: str) -> None:
    """Print nothing."""


def never() -> bool:
    """Do not stop."""
    return False


@contextmanager
def bars() -> Iterator[Report]:
    """One progress bar for each phase, on standard error; not on a terminal, every bar is printed once at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[loss]}"), console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(step: Step) -> None:
            if step.phase not in tasks:
                tasks[step.phase] = progress.add_task(step.phase, total=step.total, loss="")
            loss = "" if step.loss is None else f"loss {step.loss:.2f}"
            progress.update(tasks[step.phase], completed=step.done, total=step.total, loss=loss)

        yield report

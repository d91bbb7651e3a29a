"""The runs of a plan: in which order they are made, and which of them can be made now."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from elasticvit.data.image_set import ImageSet
from elasticvit.progress import Report, Stop
from elasticvit.training.ablation.files import RunFiles
from elasticvit.training.ablation.floors import as_floors, find_floors
from elasticvit.training.ablation.plan import CONFIGS, LABELS, Config, Plan
from elasticvit.training.ablation.records import Record, Results
from elasticvit.training.ablation.scratch import train_scratch
from elasticvit.training.ablation.supernet_run import run_supernet
from elasticvit.training.ablation.teacher import teachers_of, train_teacher


@dataclass(frozen=True)
class Task:
    """A run of a plan.

    Attributes:
        kind: runs of one kind take equally long per step.
    """

    name: str
    kind: str
    steps: int
    config: Config | None = None
    seed: int | None = None
    target: float | None = None

    def files(self, plan: Plan, out: Path) -> RunFiles:
        """Its files; plans of one folder do not share them."""
        return RunFiles(out, self.name if plan.name == "short" else f"{plan.name} {self.name}")

    @property
    def label(self) -> str:
        """Its name in tables and messages."""
        first, _, rest = self.name.partition(" ")
        return f"{LABELS[first]} {rest}" if first in LABELS else self.name


def all_tasks(plan: Plan, seeds: int) -> Iterator[Task]:
    """In the order in which they can be made: teacher, floors, all runs of a seed, then networks from scratch,
    shorter runs first."""
    if plan.teacher:
        yield Task("teacher", "teacher", plan.steps)
    yield Task("floors", "sandwich", plan.meta_steps)
    for seed in range(seeds):
        for config in CONFIGS:
            yield Task(f"{config} {seed}", config, plan.steps, config, seed)
    for steps in sorted(plan.steps * factor for factor in plan.scratch_factors):
        for seed in range(seeds):
            for target in plan.scratch:
                yield Task(f"scratch {target:g} {steps} {seed}", f"scratch {target:g}", steps, seed=seed, target=target)


def is_done(task: Task, results: Results) -> bool:
    """Whether the results have what this run makes."""
    match task:
        case Task(name="teacher"):
            return results.teacher is not None
        case Task(name="floors"):
            return results.floors is not None
        case Task(config=str(config), seed=int(seed)):
            return results.supernet_run(config, seed) is not None
    return (task.seed, task.target, task.steps) in {(s.seed, s.target, s.steps) for s in results.scratch}


def pending(plan: Plan, seeds: int, results: Results) -> list[Task]:
    """What is not there yet."""
    return [task for task in all_tasks(plan, seeds) if not is_done(task, results)]


def is_ready(task: Task, plan: Plan, results: Results) -> bool:
    """Whether the results that a run needs are there."""
    if task.name == "teacher":
        return True
    if plan.teacher and results.teacher is None:
        return False
    if task.name == "floors":
        return True
    if task.config is not None:
        return results.floors is not None
    assert task.seed is not None
    return results.supernet_run("performance", task.seed) is not None


Make = Callable[[RunFiles, Report, Stop], Record]


def maker(task: Task, plan: Plan, results: Results, data: ImageSet, out: Path) -> Make:
    """The function that makes a run. The run must be ready (`is_ready`), else results that it needs are missing."""
    if task.name == "teacher":
        return partial(train_teacher, plan, data, out)
    teachers = teachers_of(plan, data, out)
    if task.name == "floors":
        return partial(find_floors, plan, data, teachers)
    assert task.seed is not None
    if task.config is not None:
        assert results.floors is not None
        return partial(run_supernet, plan, task.config, task.seed, as_floors(plan, results.floors), data, teachers)
    run = results.supernet_run("performance", task.seed)
    assert run is not None and task.target is not None
    return partial(train_scratch, plan, run, task.target, task.steps, data, teachers)


def names(tasks: Sequence[Task]) -> str:
    """The labels of runs, for a message."""
    return ", ".join(task.label for task in tasks)

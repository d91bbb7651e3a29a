"""How long a plan will still take, by what its runs have taken so far."""

from collections import defaultdict
from pathlib import Path

from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.records import Results
from elasticvit.training.ablation.tasks import Task, all_tasks, is_done
from elasticvit.training.ablation.work import spent


def hours_left(plan: Plan, seeds: int, results: Results, out: Path) -> float | None:
    """Hours of one process that are left; None before anything is measured.

    The estimate for a run is its steps times the seconds per step of all runs of its kind, finished or not, plus its
    evaluation if that was measured. A kind that has not run yet takes the mean of the others.
    """
    taken, done, left = defaultdict[str, float](float), defaultdict[str, int](int), defaultdict[str, int](int)
    for task in all_tasks(plan, seeds):
        if is_done(task, results):
            taken[task.kind] += seconds_of(task, results)
            done[task.kind] += task.steps
        else:
            work = spent(task.files(plan, out).work)
            taken[task.kind] += work.seconds
            done[task.kind] += work.step
            left[task.kind] += task.steps - work.step
    rates = {kind: taken[kind] / done[kind] for kind in done if done[kind]}
    if not rates:
        return None
    mean = sum(rates.values()) / len(rates)
    return sum(steps * rates.get(kind, mean) for kind, steps in left.items()) / 3600


def seconds_of(task: Task, results: Results) -> float:
    """Seconds that a finished run took."""
    if task.name == "teacher" and results.teacher:
        return results.teacher.seconds
    if task.name == "floors" and results.floors:
        return results.floors.seconds
    if task.config is not None and task.seed is not None:
        run = results.supernet_run(task.config, task.seed)
        return run.seconds if run else 0.0
    return sum(
        row.seconds
        for row in results.scratch
        if (row.seed, row.target, row.steps) == (task.seed, task.target, task.steps)
    )

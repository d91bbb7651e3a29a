"""What `elasticvit ablate` does."""

from dataclasses import replace
from pathlib import Path

from elasticvit.errors import DataError
from elasticvit.progress import bars
from elasticvit.training.ablation.plan import Plan, miniature
from elasticvit.training.ablation.plots import plot
from elasticvit.training.ablation.records import Results, load
from elasticvit.training.ablation.run import RESULTS, run
from elasticvit.training.ablation.tables import tables
from elasticvit.training.allocator import keep_freed_memory
from elasticvit.training.run import stop_on_signals


def ablate(out: Path, *, train: bool, steps: int | None, seeds: int, classes: int | None) -> str:
    """Tables as Markdown, and plots beside the results in the folder `out`; before that, train what is missing.

    SIGINT and SIGTERM end a run after its step; the same command goes on from there.

    Args:
        steps, classes: instead of those of the results that are there, or of `Plan`.
        seeds: how many, from 0; for `train` alone.

    Raises:
        DataError: there are no results, or they are of other settings; images or the disk are at fault.
        StoppedError: told to stop.
    """
    path = out / RESULTS
    results = load(path)
    plan = chosen_plan(results, steps, classes)
    if train:
        keep_freed_memory()
        with stop_on_signals() as stop, bars() as report:
            results = run(plan, seeds, out, report=report, stop=stop)
    elif results is None:
        raise DataError(f"no results in {path}; make some by `elasticvit ablate --run`, or name their folder by --out")
    plot(plan, results, out)
    return rendered(plan, results)


def chosen_plan(results: Results | None, steps: int | None, classes: int | None) -> Plan:
    """The plan of the results, or a new one, with what is asked for."""
    plan = Plan.from_json(results.conditions.plan) if results else Plan()
    if classes is not None:
        plan = replace(plan, data=f"tiny-imagenet:{classes}@48", space=miniature(classes))
    plan = plan if steps is None else replace(plan, steps=steps)
    if results and plan != Plan.from_json(results.conditions.plan):
        raise DataError("the results there are of other settings; take another --out for these")
    return plan


def rendered(plan: Plan, results: Results) -> str:
    """All tables, and how they came about, as Markdown."""
    made, scratch = results.conditions, results.scratch
    seconds = sum(t.seconds for t in results.trials) + sum(s.seconds for s in scratch)
    seconds += results.floors.seconds if results.floors else 0.0
    about = (
        f"{len(results.trials)} supernets of {plan.steps} steps, {len(scratch)} networks from scratch; begun"
        f" {made.began}, {made.device}, threads: {made.threads}, torch {made.torch}; {seconds / 3600:.1f} hours."
        " ±: 95 % t-intervals over seeds."
    )
    return "\n\n".join([about, *map(str, tables(plan, results))])

"""What `elasticvit ablate` does."""

from dataclasses import replace
from pathlib import Path

from elasticvit.errors import DataError
from elasticvit.progress import bars
from elasticvit.training.ablation.plan import PLANS, Plan, PlanName
from elasticvit.training.ablation.plots import plot
from elasticvit.training.ablation.records import Results, load
from elasticvit.training.ablation.run import begun, results_file, run, to_stderr
from elasticvit.training.ablation.tables import tables
from elasticvit.training.ablation.tasks import names, pending
from elasticvit.training.ablation.workers import default_workers, run_together
from elasticvit.training.allocator import keep_freed_memory
from elasticvit.training.run import stop_on_signals


def ablate(
    out: Path,
    *,
    train: bool,
    steps: int | None,
    seeds: int,
    classes: int | None,
    name: PlanName = "short",
    workers: int | None = None,
) -> str:
    """Tables as Markdown, and plots beside the results in the folder `out`; before that, train what is missing.

    SIGINT and SIGTERM end a run after its step; the same call resumes it.

    Args:
        steps, classes: instead of those of the results that are there, or of the plan.
        seeds: how many, from 0; for `train`, and to name the runs that are missing.
        name: of the plan.
        workers: processes that train side by side; by default 1 on a CPU and several on an accelerator.

    Raises:
        DataError: there are no results, or they are of other settings; images or the disk are at fault.
        StoppedError: stopped by a signal.
    """
    path = out / results_file(name)
    results = load(path)
    plan = chosen_plan(results, steps, classes, name)
    if train:
        results = _trained(plan, seeds, out, workers)
    elif results is None:
        raise DataError(f"no results in {path}; make some by `elasticvit ablate --run`, or name their folder by --out")
    plot(plan, results, out)
    return rendered(plan, results, seeds)


def _trained(plan: Plan, seeds: int, out: Path, workers: int | None) -> Results:
    keep_freed_memory()
    count = default_workers() if workers is None else workers
    with stop_on_signals() as stop:
        if count > 1:
            run_together(plan, seeds, out, count, stop)
            return begun(plan, out)
        if plan.name != "short":
            return run(plan, seeds, out, stop=stop, say=to_stderr)
        with bars() as report:
            return run(plan, seeds, out, report=report, stop=stop)


def chosen_plan(results: Results | None, steps: int | None, classes: int | None, name: PlanName = "short") -> Plan:
    """The plan of the results, or a new one, with what is asked for. Raises `DataError` for results of another plan."""
    plan = Plan.from_json(results.conditions.plan) if results else PLANS[name](20)
    if classes is not None:
        plan = replace(plan, data=f"tiny-imagenet:{classes}@48", space=PLANS[name](classes).space)
    plan = plan if steps is None else replace(plan, steps=steps)
    if results and plan != Plan.from_json(results.conditions.plan):
        raise DataError("the results there are of other settings; take another --out for these")
    return plan


def rendered(plan: Plan, results: Results, seeds: int = 3) -> str:
    """All tables and the conditions of their results, as Markdown; for a plan of many hours also what is missing."""
    made, scratch = results.conditions, results.scratch
    seconds = sum(t.seconds for t in results.supernet_runs) + sum(s.seconds for s in scratch)
    seconds += results.floors.seconds if results.floors else 0.0
    seconds += results.teacher.seconds if results.teacher else 0.0
    about = (
        f"{len(results.supernet_runs)} supernets of {plan.steps} steps, {len(scratch)} networks from scratch; begun"
        f" {made.began}, {made.device}, threads: {made.threads}, torch {made.torch}; {seconds / 3600:.1f} hours."
        " ±: 95 % t-intervals over seeds."
    )
    notes = [about]
    if results.teacher:
        notes.append(
            f"The external teacher, {results.teacher.mflops:.1f} MFLOPs, trained alone for {results.teacher.steps}"
            f" steps: {100 * results.teacher.val:.1f} % top-1 on val."
        )
    if plan.curve and (missing := pending(plan, seeds, results)):
        notes.append(f"Not finished: {names(missing)}.")
    return "\n\n".join([*notes, *map(str, tables(plan, results))])

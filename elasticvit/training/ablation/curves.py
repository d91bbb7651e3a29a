"""Learning curves in numbers: levels by steps of training, and by multiply-accumulates spent in training.

Steps compare methods by equal images, work by equal multiply-accumulates; both fair rules can be read off.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from elasticvit.training.ablation.plan import CONFIGS, LABELS, Config, Plan
from elasticvit.training.ablation.records import Point, Results, SupernetRun
from elasticvit.training.ablation.statistics import mean_of, paired
from elasticvit.training.ablation.table import Table, shown

Numbers = Callable[[SupernetRun, float], Sequence[float]]
"""Top-1 of every level, then their mean, of a run after a number of steps, or of 10^12 multiply-accumulates."""
Score = Literal["best", "mean"]
TERA = 1e12
DIFFERENCES: tuple[tuple[Config, Config], ...] = (
    ("adjacent", "sandwich"),
    ("hss", "adjacent"),
    ("performance", "hss"),
    ("performance", "sandwich"),
)
"""Differences that are shown: each part over what it is added to, and all of them together."""
TITLES: dict[Score, str] = {
    "best": "top-1 on val of the best sub-network of a level, %",
    "mean": "top-1 on search, mean of all candidates of a level, %",
}


def curve_tables(plan: Plan, results: Results) -> list[Table]:
    """Curves of the best and of the mean of every level, each with differences between methods; none for a plan that
    measures at the end alone."""
    runs = [run for run in results.supernet_runs if run.curve]
    if not runs:
        return []
    steps = [float(row.steps) for row in runs[0].curve]
    budgets = work_budgets(runs)
    made = []
    for score, title in TITLES.items():
        by_steps, by_work = partial(reached, score=score), partial(interpolated, score=score)
        made += _tables(plan, results, f"By steps: {title}", steps, "{:,.0f} steps", by_steps)
        made += _tables(plan, results, f"By work, 10^12 MACs: {title}", budgets, "{:.3g} T", by_work)
    return made


def value(point: Point, score: Score) -> float:
    """Top-1 of a level, %."""
    return 100 * (point.val if score == "best" else point.mean)


def reached(run: SupernetRun, steps: float, score: Score) -> list[float]:
    """Top-1 of every level after `steps` steps, then their mean, %."""
    row = next(row for row in run.curve if row.steps == steps)
    return _with_mean([value(point, score) for point in row.levels])


def interpolated(run: SupernetRun, tera_macs: float, score: Score) -> list[float]:
    """Top-1 of every level after so much work, then their mean, %; between measurements linear in log work."""
    work = np.log([row.macs / TERA for row in run.curve])
    columns = zip(*([value(point, score) for point in row.levels] for row in run.curve), strict=True)
    return _with_mean([float(np.interp(np.log(tera_macs), work, column)) for column in columns])


def work_budgets(runs: Sequence[SupernetRun]) -> list[float]:
    """Work at which methods are compared, 10^12 multiply-accumulates: what the cheapest run had spent at each of its
    measurements, as far as all runs had measurements from before to after."""
    first = max(run.curve[0].macs for run in runs)
    cheapest = min(runs, key=lambda run: run.curve[-1].macs)
    return [row.macs / TERA for row in cheapest.curve if row.macs >= first]


def _with_mean(values: list[float]) -> list[float]:
    return [*values, float(np.mean(values))]


def _tables(
    plan: Plan, results: Results, title: str, places: Sequence[float], label: str, numbers: Numbers
) -> list[Table]:
    """Means of all methods at every place of a curve, and paired differences."""
    head = ("", *(f"{target:g} M" for target in plan.levels), "all")
    means, differences = [], []
    for place in places:
        rows = {config: {t.seed: numbers(t, place) for t in results.of(config) if t.curve} for config in CONFIGS}
        for config, by_seed in rows.items():
            if by_seed:
                cells = [shown(mean_of(column)) for column in zip(*by_seed.values(), strict=True)]
                means.append((f"{LABELS[config]}, {label.format(place)}", *cells))
        for after, before in DIFFERENCES:
            if seeds := sorted(rows[after].keys() & rows[before].keys()):
                columns = zip(*(zip(rows[after][s], rows[before][s], strict=True) for s in seeds), strict=True)
                cells = [shown(paired(*zip(*column, strict=True)), sign=True) for column in columns]
                differences.append((f"{LABELS[after]} − {LABELS[before]}, {label.format(place)}", *cells))
    return [
        Table(title, head, tuple(means)),
        Table(f"{title}: paired differences, points", head, tuple(differences)),
    ]

"""The paper's tables from results, as Markdown. What is not measured yet is left out or shown as a dash."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from elasticvit.training.ablation.curves import DIFFERENCES, curve_tables
from elasticvit.training.ablation.plan import CONFIGS, LABELS, Config, Plan
from elasticvit.training.ablation.records import Level, Results, SupernetRun
from elasticvit.training.ablation.statistics import mean_of, paired, rank_correlation
from elasticvit.training.ablation.table import Table, shown

BINS = 6
DASH = "–"


def tables(plan: Plan, results: Results) -> list[Table]:
    """All tables that the results allow."""
    made = [
        *accuracies(plan, results, "Table 3: top-1 on val of the best sub-network of a level, %", _best),
        *accuracies(plan, results, "Top-1 on search, mean of all candidates of a level, %", _mean),
        ends(results),
        similarity(plan, results),
        by_difference(results),
        scratch(plan, results),
        *curve_tables(plan, results),
    ]
    return [table for table in made if table.rows]


def _best(level: Level) -> float:
    return 100 * level.val


def _mean(level: Level) -> float:
    return 100 * level.mean


def accuracies(plan: Plan, results: Results, title: str, of: Callable[[Level], float]) -> list[Table]:
    """A number of every level by configuration, and the differences between configurations, seed by seed."""
    head = (*(f"{target:g} M" for target in plan.levels), "all")
    numbers = {config: _by_level(results.of(config), of) for config in CONFIGS}
    means = [
        (LABELS[config], *(shown(mean_of(column)) for column in zip(*rows.values(), strict=True)))
        for config, rows in numbers.items()
        if rows
    ]
    differences = []
    for after, before in DIFFERENCES:
        seeds = sorted(numbers[after].keys() & numbers[before].keys())
        if seeds:
            pairs = zip(*([numbers[c][s] for s in seeds] for c in (after, before)), strict=True)
            columns = zip(*([np.subtract(a, b) for a, b in pairs]), strict=True)
            cells = [shown(mean_of([float(x) for x in column]), sign=True) for column in columns]
            differences.append((f"{LABELS[after]} − {LABELS[before]}", *cells))
    return [
        Table(title, ("", *head), tuple(means)),
        Table(f"{title}: paired differences, points", ("", *head), tuple(differences)),
    ]


def _by_level(runs: Sequence[SupernetRun], of: Callable[[Level], float]) -> dict[int, list[float]]:
    """By seed: the number at every level, then their mean."""
    rows = {run.seed: [of(level) for level in run.levels] for run in runs}
    return {seed: [*row, float(np.mean(row))] for seed, row in rows.items()}


def ends(results: Results) -> Table:
    """Both ends of the space, which only some configurations train."""
    rows = []
    for config in CONFIGS:
        if runs := results.of(config):
            cells = [
                shown(mean_of([100 * value for value in values]))
                for values in ([t.smallest for t in runs], [t.largest for t in runs])
            ]
            rows.append((LABELS[config], *cells))
    return Table("Top-1 on val of both ends of the space, %", ("", "smallest", "largest"), tuple(rows))


def similarity(plan: Plan, results: Results) -> Table:
    """The paper's Table 4."""
    head = [f"{target:g} M {kind}" for target in plan.similar for kind in ("random", "good")]
    rows: list[tuple[str, ...]] = []
    numbers: dict[Config, dict[int, list[float]]] = {}
    for config in CONFIGS:
        numbers[config] = {t.seed: [x for s in t.similarities for x in (s.random, s.good)] for t in results.of(config)}
        if numbers[config]:
            columns = zip(*numbers[config].values(), strict=True)
            rows.append((LABELS[config], *(shown(mean_of(column), digits=3) for column in columns)))
    seeds = sorted(numbers["performance"].keys() & numbers["sandwich"].keys())
    if seeds:
        after, before = (zip(*(numbers[c][s] for s in seeds), strict=True) for c in ("performance", "sandwich"))
        cells = [shown(paired(a, b), digits=3, sign=True) for a, b in zip(after, before, strict=True)]
        rows.append(("all parts − sandwich rule, paired", *cells))
    return Table("Table 4: cosine similarity of gradients within a level", ("", *head), tuple(rows))


def difference_bins(results: Results) -> list[float]:
    """Edges of equally filled bins of the difference in cost, MFLOPs."""
    gaps = [gap for config in CONFIGS for run in results.of(config) for gap, _ in gaps_of(run)]
    return [float(edge) for edge in np.quantile(gaps, np.linspace(0, 1, BINS + 1))] if gaps else []


def gaps_of(run: SupernetRun) -> list[tuple[float, float]]:
    """Difference in cost (MFLOPs) and similarity of every pair of sub-networks of a supernet."""
    costs = run.pairs.mflops
    rows, columns = np.triu_indices(len(costs), 1)
    return [(abs(costs[i] - costs[j]), c) for i, j, c in zip(rows, columns, run.pairs.cosines, strict=True)]


def binned(run: SupernetRun, edges: Sequence[float]) -> list[float]:
    """The mean similarity of a supernet's pairs in every bin."""
    gaps = np.array(gaps_of(run))
    at = np.clip(np.searchsorted(edges, gaps[:, 0], side="right") - 1, 0, len(edges) - 2)
    return [float(gaps[at == i, 1].mean()) if (at == i).any() else float("nan") for i in range(len(edges) - 1)]


def by_difference(results: Results) -> Table:
    """The paper's Figure 2b in numbers."""
    edges, rows = difference_bins(results), []
    for config in CONFIGS:
        if runs := results.of(config):
            columns = zip(*(binned(run, edges) for run in runs), strict=True)
            ranks = mean_of([rank_correlation(*zip(*gaps_of(run), strict=True)) for run in runs])
            cells = [shown(mean_of(column), digits=3) for column in columns]
            rows.append((LABELS[config], *cells, shown(ranks, digits=2, sign=True)))
    head = [f"{low:.1f} to {high:.1f} M" for low, high in pairwise(edges)]
    title = "Figure 2b: cosine similarity of gradients by difference in cost"
    return Table(title, ("", *head, "Spearman"), tuple(rows))


def scratch(plan: Plan, results: Results) -> Table:
    """The paper's Table 5; a longer run may have fewer seeds."""
    head = [f"{target:g} M" for target in plan.scratch]
    rows: list[tuple[str, ...]] = []
    for steps in sorted({s.steps for s in results.scratch}):
        of_target = [[s for s in results.scratch if (s.target, s.steps) == (target, steps)] for target in plan.scratch]
        scratch, inherited = (
            [[100 * getattr(s, name) for s in records] for records in of_target] for name in ("val", "inherited")
        )
        pairs = list(zip(inherited, scratch, strict=True))
        seeds = min(map(len, scratch))
        counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
        rows.append((f"from scratch, {steps} steps ({counted})", *(_mean_or_dash(s) for s in scratch)))
        rows.append(("inherited, the same seeds", *(_mean_or_dash(i) for i in inherited)))
        differences = (shown(paired(i, s), sign=True) if s else DASH for i, s in pairs)
        rows.append(("inherited − from scratch, paired", *differences))
    return Table("Table 5: top-1 on val, inherited or trained from scratch, %", ("", *head), tuple(rows))


def _mean_or_dash(values: Sequence[float]) -> str:
    return shown(mean_of(values)) if values else DASH

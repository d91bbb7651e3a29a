"""The paper's figures from results, as SVG files that are the same bytes every time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.atomic import atomic_file
from elasticvit.errors import DataError
from elasticvit.training.ablation.curves import TERA, Score, value
from elasticvit.training.ablation.plan import CONFIGS, LABELS, Config, Plan
from elasticvit.training.ablation.records import Milestone, Results
from elasticvit.training.ablation.statistics import Mean, mean_of
from elasticvit.training.ablation.tables import binned, difference_bins, gaps_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[Config, str] = {
    "sandwich": "#7f7f7f",
    "adjacent": "#1f77b4",
    "hss": "#2ca02c",
    "performance": "#d62728",
}
LINES: tuple[tuple[Score, str], ...] = (("best", "o-"), ("mean", "--"))
STYLE: Any = {
    "svg.hashsalt": "elasticvit",  # else ids of shapes change from run to run
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def plot(plan: Plan, results: Results, folder: Path) -> list[Path]:
    """Write what the results allow to draw. Raises `DataError` where the disk refuses."""
    made: list[Path] = []
    prefix = "" if plan.name == "short" else f"{plan.name}-"
    if results.supernet_runs:
        with _figure(folder / f"{prefix}table3.svg", made) as axes:
            _accuracies(axes, plan, results)
        with _figure(folder / f"{prefix}table4.svg", made) as axes:
            _similarities(axes, plan, results)
        with _figure(folder / f"{prefix}figure2b.svg", made) as axes:
            _by_difference(axes, results)
    if results.scratch:
        with _figure(folder / f"{prefix}table5.svg", made) as axes:
            _scratch(axes, plan, results)
    if any(run.curve for run in results.supernet_runs):
        for name, against in (("steps", _steps), ("work", _work)):
            with _saved(folder / f"{prefix}curves-{name}.svg", made, (9.6, 6.0)) as figure:
                _curves(figure, plan, results, against, name)
    return made


@contextmanager
def _figure(path: Path, made: list[Path]) -> Iterator["Axes"]:
    with _saved(path, made, (6.4, 3.8)) as figure:
        yield figure.subplots()


@contextmanager
def _saved(path: Path, made: list[Path], inches: tuple[float, float]) -> Iterator["Figure"]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure
        with atomic_file(path, error=DataError, parents=True, single_writer=True) as file:
            # No date inside: the same results give the same file.
            figure.savefig(file, format="svg", metadata={"Date": None})
    made.append(path)


def _accuracies(axes: "Axes", plan: Plan, results: Results) -> None:
    places = np.arange(len(plan.levels))
    for i, config in enumerate(CONFIGS):
        if runs := results.of(config):
            columns = zip(*([100 * level.val for level in run.levels] for run in runs), strict=True)
            _bars(axes, places + 0.08 * (i - 1.5), [mean_of(column) for column in columns], config, "o-")
    axes.set_xticks(places, [f"{target:g}" for target in plan.levels])
    axes.set(xlabel="level, MFLOPs", ylabel="top-1 on val of the best sub-network, %")
    _legend(axes)


def _similarities(axes: "Axes", plan: Plan, results: Results) -> None:
    kinds = [f"{target:g} M\n{kind}" for target in plan.similar for kind in ("random", "good")]
    places = np.arange(len(kinds))
    for i, config in enumerate(CONFIGS):
        if runs := results.of(config):
            columns = zip(*([x for s in t.similarities for x in (s.random, s.good)] for t in runs), strict=True)
            _bars(axes, places + 0.12 * (i - 1.5), [mean_of(column) for column in columns], config, "o")
    axes.set_xticks(places, kinds)
    axes.set(ylabel="cosine similarity of gradients")
    _legend(axes)


def _by_difference(axes: "Axes", results: Results) -> None:
    edges = difference_bins(results)
    middles = np.array([(low + high) / 2 for low, high in pairwise(edges)])
    for config in CONFIGS:
        if runs := results.of(config):
            if config == "sandwich":
                gaps = np.array([pair for run in runs for pair in gaps_of(run)])
                # Hundreds of dots are smaller as one picture than as shapes.
                axes.plot(*gaps.T, ".", color=COLOURS[config], alpha=0.2, markersize=2, rasterized=True)
            columns = zip(*(binned(run, edges) for run in runs), strict=True)
            _bars(axes, middles, [mean_of(column) for column in columns], config, "o-")
    axes.set(xlabel="difference in cost, MFLOPs", ylabel="cosine similarity of gradients")
    _legend(axes)


def _scratch(axes: "Axes", plan: Plan, results: Results) -> None:
    places = np.arange(len(plan.scratch))
    inherited = [
        [100 * level.val for t in results.of("performance") for level in t.levels if level.target == target]
        for target in plan.scratch
    ]
    _bars(axes, places - 0.15, [mean_of(values) for values in inherited], "performance", "o", "inherited")
    for i, steps in enumerate(sorted({s.steps for s in results.scratch})):
        percents = [[100 * s.val for s in results.scratch if (s.target, s.steps) == (t, steps)] for t in plan.scratch]
        at = [place for place, values in zip(places + 0.15 * i, percents, strict=True) if values]
        means = [mean_of(values) for values in percents if values]
        _bars(axes, np.array(at), means, "sandwich" if i else "adjacent", "s", f"from scratch, {steps} steps")
    axes.set_xticks(places, [f"{target:g}" for target in plan.scratch])
    axes.set(xlabel="level, MFLOPs", ylabel="top-1 on val, %")
    _legend(axes)


def _steps(row: Milestone) -> float:
    return row.steps


def _work(row: Milestone) -> float:
    return row.macs / TERA


def _curves(figure: "Figure", plan: Plan, results: Results, against: Callable[[Milestone], float], name: str) -> None:
    """A panel a level: the best sub-network on val (solid) and the mean of all candidates on search (dashed), means
    over seeds."""
    rows = 2 if len(plan.levels) > 1 else 1
    panels = figure.subplots(rows, -(-len(plan.levels) // rows), sharex=True, squeeze=False)
    for number, (axes, target) in enumerate(zip(panels.flat, plan.levels, strict=False)):
        for config in CONFIGS:
            curves = [run.curve for run in results.of(config) if run.curve]
            if curves:
                places = [float(np.mean([against(row) for row in column])) for column in zip(*curves, strict=True)]
                for score, style in LINES:
                    values = [
                        float(np.mean([value(row.levels[number], score) for row in column]))
                        for column in zip(*curves, strict=True)
                    ]
                    label = LABELS[config] if score == "best" else None
                    axes.plot(places, values, style, color=COLOURS[config], label=label, markersize=3, lw=1.2)
        axes.set_xscale("log")
        axes.set_title(f"{target:g} MFLOPs", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("steps" if name == "steps" else "multiply-accumulates of training, 10^12")
    for axes in panels[:, 0]:
        axes.set_ylabel("top-1, %")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=4)


def _bars(
    axes: "Axes",
    x: NDArray[Any],
    means: Sequence[Mean],
    config: Config,
    style: str,
    name: str | None = None,
) -> None:
    """Means with their intervals; a single value has no bar."""
    halves = [mean.half if mean.n > 1 else 0.0 for mean in means]
    values = [mean.value for mean in means]
    label = name or LABELS[config]
    axes.errorbar(x, values, halves, fmt=style, color=COLOURS[config], label=label, markersize=4, capsize=2, lw=1.2)


def _legend(axes: "Axes") -> None:
    """Above the plot, where nothing is drawn."""
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)

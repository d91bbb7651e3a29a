"""The paper's figures from results, as SVG files that are the same bytes every time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.atomic import atomic_file
from elasticvit.errors import DataError
from elasticvit.training.ablation.plan import CONFIGS, LABELS, Config, Plan
from elasticvit.training.ablation.records import Results
from elasticvit.training.ablation.statistics import Mean, mean_of
from elasticvit.training.ablation.tables import binned, difference_bins, gaps_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: dict[Config, str] = {
    "sandwich": "#7f7f7f",
    "adjacent": "#1f77b4",
    "hss": "#2ca02c",
    "performance": "#d62728",
}
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
    if results.trials:
        with _figure(folder / "table3.svg", made) as axes:
            _accuracies(axes, plan, results)
        with _figure(folder / "table4.svg", made) as axes:
            _similarities(axes, plan, results)
        with _figure(folder / "figure2b.svg", made) as axes:
            _by_difference(axes, results)
    if results.scratch:
        with _figure(folder / "table5.svg", made) as axes:
            _scratch(axes, plan, results)
    return made


@contextmanager
def _figure(path: Path, made: list[Path]) -> Iterator["Axes"]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        yield figure.subplots()
        with atomic_file(path, error=DataError, parents=True, single_writer=True) as file:
            # No date inside: the same results give the same file.
            figure.savefig(file, format="svg", metadata={"Date": None})
    made.append(path)


def _accuracies(axes: "Axes", plan: Plan, results: Results) -> None:
    places = np.arange(len(plan.levels))
    for i, config in enumerate(CONFIGS):
        if trials := results.of(config):
            columns = zip(*([100 * level.val for level in trial.levels] for trial in trials), strict=True)
            _bars(axes, places + 0.08 * (i - 1.5), [mean_of(column) for column in columns], config, "o-")
    axes.set_xticks(places, [f"{target:g}" for target in plan.levels])
    axes.set(xlabel="level, MFLOPs", ylabel="top-1 on val of the best sub-network, %")
    _legend(axes)


def _similarities(axes: "Axes", plan: Plan, results: Results) -> None:
    kinds = [f"{target:g} M\n{kind}" for target in plan.similar for kind in ("random", "good")]
    places = np.arange(len(kinds))
    for i, config in enumerate(CONFIGS):
        if trials := results.of(config):
            columns = zip(*([x for s in t.similarities for x in (s.random, s.good)] for t in trials), strict=True)
            _bars(axes, places + 0.12 * (i - 1.5), [mean_of(column) for column in columns], config, "o")
    axes.set_xticks(places, kinds)
    axes.set(ylabel="cosine similarity of gradients")
    _legend(axes)


def _by_difference(axes: "Axes", results: Results) -> None:
    edges = difference_bins(results)
    middles = np.array([(low + high) / 2 for low, high in pairwise(edges)])
    for config in CONFIGS:
        if trials := results.of(config):
            if config == "sandwich":
                gaps = np.array([pair for trial in trials for pair in gaps_of(trial)])
                # Hundreds of dots are smaller as one picture than as shapes.
                axes.plot(*gaps.T, ".", color=COLOURS[config], alpha=0.2, markersize=2, rasterized=True)
            columns = zip(*(binned(trial, edges) for trial in trials), strict=True)
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
        found = [[100 * s.val for s in results.scratch if (s.target, s.steps) == (t, steps)] for t in plan.scratch]
        at = [place for place, values in zip(places + 0.15 * i, found, strict=True) if values]
        means = [mean_of(values) for values in found if values]
        _bars(axes, np.array(at), means, "sandwich" if i else "adjacent", "s", f"from scratch, {steps} steps")
    axes.set_xticks(places, [f"{target:g}" for target in plan.scratch])
    axes.set(xlabel="level, MFLOPs", ylabel="top-1 on val, %")
    _legend(axes)


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

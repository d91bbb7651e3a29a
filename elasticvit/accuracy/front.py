"""The front of a supernet: its best sub-networks at every size.

They are chosen on the search split (held-out training images). The reported accuracies are measured on the validation
split, by which neither weights, nor predictor, nor networks were chosen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from elasticvit.accuracy.best_predicted import best_predicted, size_steps
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import AccuracyTable, Values
from elasticvit.accuracy.tabulate import Evaluate, in_processes
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Codes
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import DataError
from elasticvit.nn.supernet_header import read_supernet_header, table_path
from elasticvit.progress import Report, Step, silent

POINTS = 12
CANDIDATES = 6


@dataclass(frozen=True)
class Point:
    """A sub-network of the front.

    Attributes:
        arch: canonical JSON.
        search, val: top-1 on the search split, by which it was chosen, and on the validation split.
        se: standard error of `val`; lower, upper: its 95 % interval (Wilson).
    """

    arch_id: str
    arch: str
    macs: int
    search: float
    val: float
    se: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Front:
    """The points by rising MACs, and statistics over them.

    Attributes:
        spearman: Spearman's rank correlation of MACs and `val`.
        largest_drop_se: the largest amount by which `val` of a point is below that of a smaller one, in standard
            errors.
        best_minus_smallest: difference of `val`, a fraction (-1 to 1).
        images: number of images that `val` was measured on; independent: whether they are known to have trained and
            chosen nothing.
        steps: number of steps of size; a step has no point where nothing beats the smaller points on `search`.
    """

    points: tuple[Point, ...]
    spearman: float
    largest_drop_se: float
    best_minus_smallest: float
    images: int
    steps: int
    independent: bool | None = None

    @classmethod
    def of(cls, points: Sequence[Point], images: int, steps: int, independent: bool | None = None) -> "Front":
        """Raises `DataError` for fewer than two points."""
        if len(points) < 2:
            raise DataError("nothing that was found beats the smallest network; use more --candidates, or train longer")
        val, se = np.array([p.val for p in points]), np.array([p.se for p in points])
        drops = (np.maximum.accumulate(val) - val) / np.maximum(se, 1e-9)
        return cls(
            tuple(points),
            float(spearmanr([p.macs for p in points], val).statistic),
            float(drops.max()),
            float(val.max() - val[0]),
            images,
            steps,
            independent,
        )

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def front(
    file: Path,
    points: int = POINTS,
    candidates: int = CANDIDATES,
    processes: int = 1,
    seed: int = 0,
    report: Report = silent,
) -> Front:
    """Find the front of a supernet file that has an accuracy table, and measure it.

    Between the smallest and the largest network, in steps of equal ratio of MACs, the best predicted `candidates` are
    evaluated on the search split. The best of each step is a point, unless a smaller one is as good.

    Raises:
        SupernetFileError, PredictorError, DataError: file, accuracy table or images cannot be used.
    """
    if points < 2:
        raise DataError(f"a front has 2 points or more, not {points}")
    table = AccuracyTable.load(table_path(file), read_supernet_header(file).space)
    predictor = fit_accuracy(table)
    codes = best_predicted(predictor, points, candidates, seed)
    search = _measured(table, codes, in_processes(file, processes, ("search",)), report)
    best = _best_of_steps(table, codes, 0.5 * (search + predictor.predict(codes)), points)
    chosen = undominated(best, search)
    archs = [table.space.decode(code) for code in codes[chosen]]
    macs = CostTable.of_macs(table.space).total(codes)
    members, reported = [], list[Accuracy]()
    for i, (accuracy,) in enumerate(in_processes(file, processes, ("val",), most_val=None)(archs)):
        members.append(_point(archs[i], int(macs[chosen[i]]), float(search[chosen[i]]), accuracy))
        reported.append(accuracy)
        report(Step("val", i + 1, len(archs)))
    return Front.of(members, reported[0].images, points, reported[0].independent)


def _point(arch: Arch, macs: int, search: float, val: Accuracy) -> Point:
    se = float(np.sqrt(val.value * (1 - val.value) / val.images))
    return Point(arch.id, arch.to_json(), macs, search, val.value, se, val.lower, val.upper)


def _measured(table: AccuracyTable, codes: Codes, evaluate: Evaluate, report: Report) -> Values:
    """Top-1 on the search split, shape (n,); from the accuracy table where it has the code."""
    known = dict(zip(map(tuple, table.codes.tolist()), table.top1.tolist(), strict=True))
    todo = [code for code in codes if tuple(code.tolist()) not in known]
    for i, (accuracy,) in enumerate(evaluate([table.space.decode(code) for code in todo])):
        known[tuple(todo[i].tolist())] = accuracy.value
        report(Step("search", i + 1, len(todo)))
    return np.array([known[tuple(code.tolist())] for code in codes])


def _best_of_steps(table: AccuracyTable, codes: Codes, scores: Values, points: int) -> list[int]:
    """The row of the best score in each step, by rising MACs.

    Scores are half measured and half predicted: the maximum of several measurements alone is biased.
    """
    macs = CostTable.of_macs(table.space).total(codes)
    low, best = -np.inf, list[int]()
    for edge in size_steps(table.space, points):
        rows = np.flatnonzero((macs > low) & (macs <= edge))
        low = float(edge)
        if len(rows):
            best.append(int(rows[scores[rows].argmax()]))
    return best


def undominated(rows: Sequence[int], search: Values) -> list[int]:
    """The rows, given by rising MACs, whose measured top-1 is above that of every smaller one.

    Predictions are not used: the smallest and the largest network are trained in every step of the sandwich, so a
    predictor fitted to networks between them predicts too little for them.
    """
    kept = list[int]()
    for row in rows:
        if not kept or search[row] > search[kept[-1]]:
            kept.append(row)
    return kept

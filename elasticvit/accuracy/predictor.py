"""Accuracy of any member of a space, predicted from the accuracy table of evaluated sub-networks. No torch.

With a few dozen evaluations of a well-trained supernet most differences are noise. An unconstrained regression would
predict some small networks above large ones by chance, and search would find exactly those. So the fit has two
constraints, for supernets whose large members teach the small: no choice is worse than the next smaller one, and more
multiply-accumulates never hurt (logits rise with log MACs along a line that may bend upwards near the largest network,
which teaches all others). The summary states how well the data agree: `mae_free` is the error without constraints.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

from elasticvit.accuracy.correction import AS_PREDICTED, Correction, fit_correction
from elasticvit.accuracy.table import FEWEST_SUBNETS, AccuracyTable, Values
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import PredictorError

FOLDS = 8
# Smallest gain in logits for twice the multiply-accumulates: at 90 % accuracy 0.02 logits are 0.18 points.
CAPACITY_FLOOR = 0.02
BENDS = 4
SIZES = 1 + BENDS
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class AccuracySummary:
    """Errors of an accuracy predictor, on sub-networks left out of the fit.

    Attributes:
        subnets, images: numbers of sub-networks, and of images that each was evaluated on.
        mae: mean absolute error, a fraction (0 to 1); mae_free: of the same model without its two constraints.
        mae_mean: of predicting the mean, for comparison.
        spearman: Spearman's rank correlation; 0 where all accuracies are equal.
        noise: binomial standard deviation of an accuracy on that number of images; errors cannot be much below it.
        capacity_slope: logits for twice the multiply-accumulates; capacity_floor: whether it is at its lower bound.
    """

    subnets: int
    images: int
    mae: float
    mae_free: float
    mae_mean: float
    spearman: float
    noise: float
    capacity_slope: float
    capacity_floor: bool


@dataclass(frozen=True)
class AccuracyPredictor:
    """Accuracy of any member of a space: logit = offset + Σ effect of each choice + slope · log2 MACs + Σ bend · (log2
    MACs above its knot).

    Attributes:
        bends: increase of the slope at each knot of `bend_at`, logits for twice the MACs; never negative.
        effects: for every position of a code the effect of each choice, logits; never decreasing.
        correction: corrects what is reported of networks that were chosen by these predictions.
    """

    space: Space
    offset: float
    slope: float
    bends: tuple[float, ...]
    effects: tuple[tuple[float, ...], ...] = field(repr=False)
    summary: AccuracySummary
    correction: Correction = AS_PREDICTED

    @cached_property
    def _macs(self) -> CostTable:
        return CostTable.of_macs(self.space)

    @cached_property
    def _arrays(self) -> tuple[Values, ...]:
        return tuple(np.array(effect) for effect in self.effects)

    def predict(self, codes: Codes) -> Values:
        """Accuracy of codes (n, D) to choose by, fractions (0 to 1), shape (n,). Rises with every single choice."""
        size = sizes(self.space, codes, self._macs)
        logits = self.offset + size @ np.array([self.slope, *self.bends])
        for position, effect in enumerate(self._arrays):
            logits = logits + effect[codes[:, position]]
        return np.asarray(1 / (1 + np.exp(-logits)), np.float64)

    def accuracy_of(self, code: Codes) -> Accuracy:
        """The predicted accuracy of one code (D,), as it is reported: corrected for the choice by predictions."""
        return self.correction.accuracy(float(self.predict(code[None])[0]))


def fit_accuracy(table: AccuracyTable) -> AccuracyPredictor:
    """Fit a predictor to an accuracy table; deterministic.

    Raises:
        PredictorError: fewer than eight sub-networks.
    """
    n = len(table.top1)
    if n < FEWEST_SUBNETS:
        raise PredictorError(
            f"an accuracy predictor needs {FEWEST_SUBNETS} evaluated sub-networks, there are {n}: evaluate"
            f" {FEWEST_SUBNETS - n} more"
        )
    model = _Model.of(table)
    ridge = min(RIDGES, key=lambda strength: model.cross_error(strength, constrained=True))
    weights, offset = model.solve(np.arange(n), ridge, constrained=True)
    held_out = model.cross_predict(ridge, constrained=True)
    free = min(model.cross_error(strength, constrained=False) for strength in RIDGES)
    means = np.array([np.delete(table.top1, i).mean() for i in range(n)])
    summary = AccuracySummary(
        subnets=n,
        images=table.images,
        mae=float(np.mean(np.abs(held_out - table.top1))),
        mae_free=free,
        mae_mean=float(np.mean(np.abs(means - table.top1))),
        spearman=_spearman(held_out, table.top1),
        noise=float(np.sqrt(np.mean(table.top1 * (1 - table.top1)) / table.images)),
        capacity_slope=float(weights[0]),
        capacity_floor=bool(weights[0] <= CAPACITY_FLOOR),
    )
    bounds = np.cumsum(table.space.sizes - 1)[:-1]
    effects = tuple((0.0, *np.cumsum(steps).tolist()) for steps in np.split(weights[SIZES:], bounds))
    bends = tuple(map(float, weights[1:SIZES]))
    correction = fit_correction(table, held_out)
    return AccuracyPredictor(table.space, offset, float(weights[0]), bends, effects, summary, correction)


def sizes(space: Space, codes: Codes, macs: CostTable | None = None) -> Values:
    """The terms that are linear in size: log2 MACs, and their excess over each knot of `bend_at`; (n, 1 + BENDS)."""
    size = np.log2((macs or CostTable.of_macs(space)).total(codes))
    return np.column_stack([size, *(np.maximum(size - at, 0.0) for at in bend_at(space))])


def bend_at(space: Space) -> tuple[float, ...]:
    """Knots: log2 MACs that divide the range of a space into equal intervals."""
    ends = np.stack([space.encode(space.smallest()), space.encode(space.largest())])
    low, high = np.log2(CostTable.of_macs(space).total(ends))
    return tuple(np.linspace(low, high, BENDS + 2)[1:-1].tolist())


@dataclass(frozen=True)
class _Model:
    """Least squares of logits on size (`sizes`) and one column for each step from a choice to the next."""

    design: Values
    logits: Values
    top1: Values

    @classmethod
    def of(cls, table: AccuracyTable) -> "_Model":
        steps = [
            (table.codes[:, position, None] >= np.arange(1, size)).astype(np.float64)
            for position, size in enumerate(table.space.sizes)
        ]
        # Half a correct and half a wrong image more keep the logit of 0 and 1 finite.
        smooth = (table.top1 * table.images + 0.5) / (table.images + 1)
        return cls(np.hstack([sizes(table.space, table.codes), *steps]), np.log(smooth / (1 - smooth)), table.top1)

    def solve(self, at: NDArray[np.int64], ridge: float, constrained: bool) -> tuple[Values, float]:
        """Weights, shape (1 + BENDS + steps,), and offset from the rows `at`."""
        design, target = self.design[at], self.logits[at]
        floor = np.zeros(design.shape[1])
        floor[0] = CAPACITY_FLOOR if constrained else 0.0
        mean, level = design.mean(axis=0), float(target.mean())
        centred, residual = design - mean, target - level - (design - mean) @ floor
        # Size is penalised much less than single steps, since it explains most of the differences.
        pull = np.sqrt(ridge) * np.eye(design.shape[1])
        pull[:SIZES] *= 0.1
        stacked, goal = np.vstack([centred, pull]), np.concatenate([residual, np.zeros(len(pull))])
        solution = nnls(stacked, goal)[0] if constrained else np.linalg.lstsq(stacked, goal, rcond=None)[0]
        weights = np.asarray(solution + floor, np.float64)
        return weights, level - float(mean @ weights)

    def cross_predict(self, ridge: float, constrained: bool) -> Values:
        """Cross-validated accuracy of every row, shape (n,)."""
        n = len(self.logits)
        # Assigned by rank of accuracy, so that every fold covers the whole range.
        ranked = np.argsort(self.logits, kind="stable")
        predicted = np.zeros(n)
        for fold in range(min(FOLDS, n)):
            out = ranked[fold :: min(FOLDS, n)]
            weights, offset = self.solve(np.setdiff1d(np.arange(n), out), ridge, constrained)
            predicted[out] = 1 / (1 + np.exp(-(offset + self.design[out] @ weights)))
        return predicted

    def cross_error(self, ridge: float, constrained: bool) -> float:
        return float(np.mean(np.abs(self.cross_predict(ridge, constrained) - self.top1)))


def _spearman(a: Values, b: Values) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)

"""From predictions that choose networks to what is reported of the networks that were chosen.

A predictor is fitted to accuracies on the images of `search`, and networks are chosen by it. The best prediction is
too high on average: those images may be easier than others, and chance is a part of what made it the best. Both are
corrected by a line, in logits, from predictions of networks left out of the fit to their accuracies on `val`, which
chose nothing. The line is a conditional mean, which selection by the prediction does not bias; it rises, so that the
order of networks stays that of the choice.
"""

from dataclasses import dataclass
from math import exp, hypot, log

import numpy as np

from elasticvit.accuracy.intervals import Z, wilson
from elasticvit.accuracy.table import AccuracyTable, Values
from elasticvit.accuracy.value import Accuracy

FEWEST = 4
"""Networks with `val` that a line is fitted to; with fewer, predictions are only shifted."""
FLATTEST = 0.1
"""Smallest slope: among networks that `val` cannot tell apart the order of the choice stays visible. The largest is 1:
differences are not exaggerated."""


@dataclass(frozen=True, slots=True)
class Correction:
    """Reported logit = offset + slope · predicted logit.

    Attributes:
        spread: standard deviation of accuracies around what is reported of networks left out of the fit, 0 to 1.
        images: number of images that the accuracies were measured on; 0 where it is not known.
        independent: as of `Accuracy`.
    """

    offset: float = 0.0
    slope: float = 1.0
    spread: float = 0.0
    images: int = 0
    independent: bool | None = None

    def reported(self, predicted: Values) -> Values:
        """Fractions (0 to 1) from predicted ones."""
        return np.asarray(1 / (1 + np.exp(-(self.offset + self.slope * logit(predicted)))), np.float64)

    def accuracy(self, predicted: float) -> Accuracy:
        """What is reported of a network whose prediction is that fraction.

        The interval holds both errors: that of counting a finite number of images, which all networks share, and that
        of the prediction.
        """
        value = 1 / (1 + exp(-(self.offset + self.slope * log(predicted / (1 - predicted)))))
        if not self.images:
            return Accuracy(value, "predicted", independent=self.independent)
        lower, upper = wilson(value, self.images)
        below, above = (hypot(side - value, Z * self.spread) for side in (lower, upper))
        bounds = max(0.0, value - below), min(1.0, value + above)
        return Accuracy(value, "predicted", 0, self.independent, *bounds)


AS_PREDICTED = Correction()


def fit_correction(table: AccuracyTable, held_out: Values) -> Correction:
    """Fit to the accuracies of `val` in a table; without any, predictions are reported as they are, as not independent.

    Args:
        held_out: predictions of the table's networks, each without its own row, fractions (0 to 1), shape (n,).
    """
    measured = ~np.isnan(table.val)
    if not measured.any():
        spread = float(np.sqrt(np.mean(np.square(table.top1 - held_out))))
        return Correction(0.0, 1.0, spread, table.images, independent=False)
    val, x = table.val[measured], logit(held_out[measured])
    # Half a correct and half a wrong image more keep the logit of 0 and 1 finite.
    y = logit((val * table.val_images + 0.5) / (table.val_images + 1))
    slope = float(np.clip(_slope(x, y), FLATTEST, 1.0))
    line = Correction(float(y.mean() - slope * x.mean()), slope)
    spread = float(np.sqrt(np.mean(np.square(val - line.reported(held_out[measured])))))
    return Correction(line.offset, slope, spread, table.val_images, table.val_independent)


def logit(fractions: Values) -> Values:
    return np.asarray(np.log(fractions / (1 - fractions)), np.float64)


def _slope(x: Values, y: Values) -> float:
    variance = float(np.square(x - x.mean()).sum())
    if len(x) < FEWEST or variance < 1e-12:
        return 1.0
    return float(((x - x.mean()) * (y - y.mean())).sum() / variance)

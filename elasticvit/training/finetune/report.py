"""Whether fine-tuning helped: accuracies of a network before and after, and warnings about small data sets.

Before means a linear probe: a linear classifier on the features of the base, which fine-tuning should exceed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elasticvit.accuracy.evaluate import EVALUATED_TOGETHER, evaluate, held_out_accuracy
from elasticvit.accuracy.value import Accuracy
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError
from elasticvit.nn.net import Net

PROBED, COMPARED = 2048, 512
"""Maximum number of training images that a linear probe is fitted to, and that a trained network is evaluated on."""
RIDGE = 1.0
"""Weight decay of the linear classifier, for features of unit variance."""
CONSTANT = 1e-6
"""Standard deviation, relative to the largest value, up to which a feature counts as constant."""
GAP = 0.15
"""Difference of the accuracies on training and on held-out images from which overfitting is reported."""


@dataclass(frozen=True)
class NetworkReport:
    """One network, top-1 as fractions (0 to 1).

    `probe` is that of a linear probe on the features of the base, `search` that of the network, both on the images held
    out for search; `val` is the number to publish, on images that chose nothing, with its 95 % interval `val_lower` to
    `val_upper` (Wilson); `train` is that on the first training images. The errors are standard errors
    (`standard_error`).
    """

    probe: float
    train: float
    search: float
    search_error: float
    val: float
    val_error: float
    val_lower: float | None = None
    val_upper: float | None = None

    def doubts(self) -> Iterator[str]:
        """Warnings, a sentence each."""
        if self.search + self.search_error < self.probe:
            yield (
                f"fine-tuning did worse on held-out images ({self.search:.1%}) than a linear classifier on the base's"
                f" features ({self.probe:.1%}): take more images, fewer --steps or a lower --lr"
            )
        if self.train - self.search > GAP:
            yield (
                f"it overfits: {self.train:.1%} on training images, {self.search:.1%} on held-out ones; more images"
                " help most, fewer --steps a little"
            )


def report_on(net: Net, data: ImageSet, probe: float) -> NetworkReport:
    """Accuracies of a network in eval mode, on training and on held-out images."""
    first = slice(COMPARED)
    train = evaluate(net, data.train.images[first], data.train.labels[first], scaled=data.scaled)
    search, val = held_out_accuracy(net, None, data, "search"), held_out_accuracy(net, None, data, "val")
    errors = standard_error(search), standard_error(val)
    return NetworkReport(probe, train, search.value, errors[0], val.value, errors[1], val.lower, val.upper)


def standard_error(accuracy: Accuracy) -> float:
    """Standard error of an accuracy by the Agresti–Coull method: with two right and two wrong answers added, so that it
    is above 0 for accuracies of 0 and 1 too."""
    n = accuracy.images + 4
    fraction = (accuracy.value * accuracy.images + 2) / n
    return sqrt(fraction * (1 - fraction) / n)


def linear_probe(net: Net, data: ImageSet) -> float:
    """Top-1, a fraction (0 to 1), on held-out images of a ridge regression from a network's features to classes, fitted
    to the first training images. The network is in eval mode, recalibrated on such images, and is not changed.

    Raises:
        DataError: features are not finite.
    """
    labels = data.train.labels[:PROBED]
    fitted = features_of(net, data.train.images[:PROBED], data.scaled).double()
    held = features_of(net, data.search.images, data.scaled).double()
    if not (torch.isfinite(fitted).all() and torch.isfinite(held).all()):
        raise DataError(f"the base's features of {data.name} are not finite numbers; take another --supernet")
    mean, std = fitted.mean(0), fitted.std(0)
    # Features that vary by no more than the rounding of float32 are constant.
    varies = std > CONSTANT * fitted.abs().amax(0)
    scale = torch.where(varies, std, torch.inf)
    x, targets = (fitted - mean) / scale, F.one_hot(labels, len(data.class_names)).double()
    level = targets.mean(0)
    # With fewer images than features x.T @ x is singular; the ridge makes it solvable.
    system = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(system, x.T @ (targets - level))
    answers = ((held - mean) / scale @ weights + level).argmax(1)
    return float((answers == data.search.labels).double().mean())


def features_of(net: Net, images: Tensor, scaled: Callable[[Tensor], Tensor]) -> Tensor:
    """Inputs (N, hidden) of the last layer of a network in eval mode for images (N, 3, H, W), scaled batch by batch."""
    features: list[Tensor] = []

    def keep(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features.append(inputs[0])

    handle = net.get_submodule("head.classify").register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            for batch in torch.split(images, EVALUATED_TOGETHER):
                net(scaled(batch))
    finally:
        handle.remove()
    return torch.cat(features)

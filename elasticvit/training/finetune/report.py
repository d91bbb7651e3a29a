"""Whether fine-tuning was worth it: a network before and after, and what there is to say about so few images.

Before is a linear classifier on the features that the network began with, the least that fine-tuning has to beat.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elasticvit.accuracy.evaluate import EVALUATED_TOGETHER, evaluate, top1_of
from elasticvit.accuracy.value import Accuracy
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError
from elasticvit.nn.net import Net

PROBED, COMPARED = 2048, 512
"""Most training images that a linear classifier is fitted to, and that a trained network is tried on."""
RIDGE = 1.0
"""Weight decay of the linear classifier, for features of unit variance."""
CONSTANT = 1e-6
"""Standard deviation, relative to the largest value, up to which a feature counts as constant."""
GAP = 0.15
"""Accuracy on training images above that on held-out ones from which there is something to say."""


@dataclass(frozen=True)
class NetworkReport:
    """One network, top-1 as parts of 1.

    `probe` is that of a linear classifier on the features it began with, `search` its own, both on the images held out
    for search; `val` is the number to publish, `train` that on the first training images. The errors are standard
    errors of counting so few images.
    """

    probe: float
    train: float
    search: float
    search_error: float
    val: float
    val_error: float

    def doubts(self) -> Iterator[str]:
        """Sentences about what the numbers warn of."""
        if self.search + self.search_error < self.probe:
            yield (
                f"fine-tuning did worse on held-out images ({self.search:.1%}) than a linear classifier on the base's"
                f" features ({self.probe:.1%}): take more images, fewer --steps or a lower --lr"
            )
        if self.train - self.search > GAP:
            yield (
                f"it knows training images ({self.train:.1%}) better than held-out ones ({self.search:.1%}), as"
                " networks do that learn few images by heart: more images help most, fewer --steps somewhat"
            )


def report_on(net: Net, data: ImageSet, probe: float) -> NetworkReport:
    """A network in eval mode, on training and on held-out images."""
    first = slice(COMPARED)
    train = evaluate(net, data.train.images[first], data.train.labels[first], scaled=data.scaled)
    search, val = (top1_of(net, split, data) for split in (data.search, data.val))
    return NetworkReport(probe, train, search.value, standard_error(search), val.value, standard_error(val))


def standard_error(accuracy: Accuracy) -> float:
    """Of a part of n images, with two images added either way so that 0 and 1 have an error too."""
    n = accuracy.images + 4
    part = (accuracy.value * accuracy.images + 2) / n
    return sqrt(part * (1 - part) / n)


def linear_probe(net: Net, data: ImageSet) -> float:
    """Top-1 on held-out images of a ridge regression from a network's features to classes, fitted to the first
    training images. The network is in eval mode, with statistics of such images; it stays as it is.

    Raises:
        DataError: features are not finite.
    """
    labels = data.train.labels[:PROBED]
    fitted = features_of(net, data.train.images[:PROBED], data.scaled).double()
    held = features_of(net, data.search.images, data.scaled).double()
    if not (torch.isfinite(fitted).all() and torch.isfinite(held).all()):
        raise DataError(f"the base's features of {data.name} are not finite numbers; take another --supernet")
    mean, std = fitted.mean(0), fitted.std(0)
    # Features that differ by no more than the rounding of float32 say nothing.
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
    """What the last layer of a network in eval mode sees of images (N, 3, H, W), scaled batch by batch: (N, hidden)."""
    seen: list[Tensor] = []

    def keep(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = net.get_submodule("head.classify").register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            for part in torch.split(images, EVALUATED_TOGETHER):
                net(scaled(part))
    finally:
        handle.remove()
    return torch.cat(seen)

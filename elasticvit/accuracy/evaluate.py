"""How good a sub-network is: recalibrate its batch norms, then count right answers on held-out images.

Shared weights carry batch norm statistics of whatever was trained last, which fit no sub-network; recalibration is
done on the extracted network, never on the supernet. Its images are those that the supernet's file carries, where it
carries some: then a network is the same for everybody, with and without the training images. Else they are the first
training images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from elasticvit.accuracy.predictor import AccuracyPredictor, fit_accuracy
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.data.image_set import ImageSet, Split, check_same_classes
from elasticvit.errors import DataError
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import LoadedSuperNet

BATCH = 128
# Small enough for the caches of one core: larger ones are up to twice as slow.
EVALUATED_TOGETHER = 32
RECALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class Accuracy:
    """Top-1, as a part of 1, over `n` images."""

    top1: float
    n: int


def recalibrate(net: Net, images: Tensor, batch: int = BATCH) -> Net:
    """Replace a network's batch norm statistics by the mean of those of the batches of images (N, 3, H, W).

    The network is changed, returned, and in eval mode. A last, smaller batch is left out unless it is the only one:
    all batches count alike.

    Raises:
        DataError: fewer than 2 images.
    """
    if len(images) < 2:
        raise DataError(f"recalibration needs 2 images or more, got {len(images)}")
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative mean
    net.train()
    with torch.no_grad():
        for part in torch.split(images, min(batch, len(images))):
            if len(part) == min(batch, len(images)):
                net(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()


def evaluate(
    net: Net,
    images: Tensor,
    labels: Tensor,
    batch: int = EVALUATED_TOGETHER,
    scaled: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Top-1 of a network in eval mode on images (N, 3, H, W), as a part of 1; on the network's device.

    Args:
        scaled: makes what the network sees of a batch, for images that are bytes: they may be more than memory holds.

    Raises:
        DataError: no images.
    """
    if not len(labels):
        raise DataError("no images to evaluate on")
    device = next(net.parameters()).device
    with torch.inference_mode():
        parts = (part.to(device) for part in torch.split(images, batch))
        answers = torch.cat([net(part if scaled is None else scaled(part)).argmax(1) for part in parts])
    return float((answers.cpu() == labels).float().mean())


def calibration_images(supernet: SuperNet, data: ImageSet | None) -> Tensor:
    """The images (K, 3, H, W), as a network sees them, that recalibrate sub-networks of this supernet.

    Raises:
        DataError: the supernet's file carries none and there is no data.
    """
    if isinstance(supernet, LoadedSuperNet) and supernet.calibration is not None:
        return supernet.card.scaled(supernet.calibration)
    if data is None:
        raise DataError(
            "this supernet carries no calibration images and its training images cannot be had: make a file that "
            "carries some by `elasticvit pack`, where the training images are"
        )
    return as_trained(supernet, data).scaled(data.train.images[:RECALIBRATION_IMAGES])


def as_trained(supernet: SuperNet, data: ImageSet) -> ImageSet:
    """The images, scaled as the card of a supernet's file says: its own data may once have been scaled otherwise.

    Raises:
        DataError: their classes have other names, or another order, than those of the card: labels would mean others.
    """
    if not isinstance(supernet, LoadedSuperNet):
        return data
    check_same_classes(data, supernet.card.class_names, f"the supernet {supernet.card.name!r}")
    return replace(data, mean=supernet.card.mean, std=supernet.card.std)


def calibrated(supernet: SuperNet, arch: Arch, data: ImageSet | None = None) -> Net:
    """The extracted and recalibrated network. Raises `SpaceError`, `DataError`."""
    return recalibrate(supernet.extract(arch), calibration_images(supernet, data))


def deployable(supernet: SuperNet, arch: Arch, data: ImageSet) -> tuple[Net, Accuracy]:
    """The extracted and recalibrated network, and its accuracy on the held-out split.

    Raises:
        SpaceError: the architecture is outside the supernet's space.
    """
    net = calibrated(supernet, arch, data)
    return net, top1_of(net, data.search, as_trained(supernet, data))


def accuracy_of(supernet: SuperNet, arch: Arch, data: ImageSet) -> Accuracy:
    """Accuracy of a sub-network on the held-out split. Raises `SpaceError`."""
    return deployable(supernet, arch, data)[1]


@dataclass(frozen=True)
class Known:
    """Top-1 as a part of 1 and how it is known: of this very network, or from others of its supernet."""

    value: float
    source: Literal["measured", "predicted"]


def known_accuracy(
    net: Net,
    space: Space,
    table: AccuracyTable | None,
    data: ImageSet | None,
    predictor: AccuracyPredictor | None = None,
) -> Known | None:
    """What is known of a recalibrated sub-network: as it stands in the table, else measured on the search split, else
    predicted from the table (by its `predictor`, where that is at hand); None without table and data.

    Raises:
        PredictorError: the table is too small.
    """
    code = space.encode(net.arch)
    if table is not None and len(at := np.flatnonzero((table.codes == code).all(axis=1))):
        return Known(float(table.top1[at[-1]]), "measured")
    if data is not None:
        return Known(top1_of(net, data.search, data).top1, "measured")
    if table is not None:
        predictor = predictor or fit_accuracy(table)
        return Known(float(predictor.predict(code[None])[0]), "predicted")
    return None


def top1_of(net: Net, split: Split, data: ImageSet) -> Accuracy:
    """Accuracy of a network on a split of a data set. Raises `DataError` for an empty one."""
    return Accuracy(evaluate(net, split.images, split.labels, scaled=data.scaled), len(split))

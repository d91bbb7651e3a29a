"""Accuracy of sub-networks: recalibrate batch norms, then count correct predictions on held-out images.

Networks are compared on the split `search`. What is reported of a network is measured on `val`, which chose nothing
(`elasticvit.data.image_set`).

Shared weights have the batch norm statistics of the networks trained last, which fit no sub-network. Recalibration is
done on the extracted network, never on the supernet. It uses the calibration images in the supernet's file, so that a
network is the same with and without the training images; without calibration images, the first training images.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from elasticvit.accuracy.independence import val_is_apart
from elasticvit.accuracy.predictor import AccuracyPredictor, fit_accuracy
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.data.image_set import Held, ImageSet, check_same_classes
from elasticvit.errors import DataError
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, LoadedSuperNet

BATCH = 128
# Small enough for the caches of one core: larger ones are up to twice as slow.
EVALUATED_TOGETHER = 32
RECALIBRATION_IMAGES = 512
TOLD_ON = 5000
"""Maximum number of images of `val` that one network is reported from: its 95 % interval is ± 1.4 points or less."""


def recalibrate(net: Net, images: Tensor, batch: int = BATCH) -> Net:
    """Replace a network's batch norm statistics by their mean over batches of images (N, 3, H, W).

    The network is changed in place, returned, and in eval mode. A smaller last batch is skipped unless it is the only
    one, so that all batches have the same weight.

    Raises:
        DataError: fewer than 2 images.
    """
    if len(images) < 2:
        raise DataError(f"recalibration needs 2 images or more, got {len(images)}")
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # in torch: a cumulative mean
    net.train()
    with torch.no_grad():
        for chunk in torch.split(images, min(batch, len(images))):
            if len(chunk) == min(batch, len(images)):
                net(chunk)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()


def evaluate(
    net: Net,
    images: Tensor,
    labels: Tensor,
    batch: int = EVALUATED_TOGETHER,
    scaled: Callable[[Tensor], Tensor] | None = None,
    rows: Tensor | None = None,
) -> float:
    """Top-1 accuracy, a fraction (0 to 1), of a network in eval mode on images (N, 3, H, W); on the network's device.

    Args:
        scaled: converts a batch of byte images to the network's input, for sets that do not fit in memory as floats.
        rows: the numbers of the images to evaluate on; by default all.

    Raises:
        DataError: no images.
    """
    rows = torch.arange(len(labels)) if rows is None else rows
    if not len(rows):
        raise DataError("no images to evaluate on")
    device = next(net.parameters()).device
    with torch.inference_mode():
        chunks = (images[chunk].to(device) for chunk in torch.split(rows, batch))
        predicted = torch.cat([net(chunk if scaled is None else scaled(chunk)).argmax(1) for chunk in chunks])
    # In double precision: half an image in thousands is beyond a float's last digits.
    return float((predicted.cpu() == labels[rows]).double().mean())


def calibration_images(supernet: SuperNet, data: ImageSet | None) -> Tensor:
    """The images (K, 3, H, W), as a network sees them, that recalibrate sub-networks of this supernet.

    Raises:
        DataError: the supernet's file has none and `data` is None.
    """
    if isinstance(supernet, LoadedSuperNet) and supernet.calibration is not None:
        return supernet.card.scaled(supernet.calibration)
    if data is None:
        raise DataError(
            "this supernet has no calibration images and its training images are not available: run `elasticvit pack` "
            "on a machine that has the training images, and use the file that it writes"
        )
    return as_trained(supernet, data).scaled(data.train.images[:RECALIBRATION_IMAGES])


def as_trained(supernet: SuperNet, data: ImageSet) -> ImageSet:
    """The images with the scaling of the card in a supernet's file, which may differ from that of the data set.

    Raises:
        DataError: their classes have other names, or another order, than those of the card: labels would mean others.
    """
    if not isinstance(supernet, LoadedSuperNet):
        return data
    check_same_classes(data, supernet.card.class_names, f"the supernet {supernet.card.name!r}")
    return replace(data, mean=supernet.card.mean, std=supernet.card.std)


def recalibrated(supernet: SuperNet, arch: Arch, data: ImageSet | None = None) -> Net:
    """The extracted and recalibrated network. Raises `SpaceError`, `DataError`."""
    return recalibrate(supernet.extract(arch), calibration_images(supernet, data))


def accuracy_of(supernet: SuperNet, arch: Arch, data: ImageSet, split: Held = "val") -> Accuracy:
    """Accuracy of a recalibrated sub-network on a held-out split: `val` to tell it, `search` to choose by it.

    Raises:
        SpaceError, DataError: an architecture outside the space, or no images.
    """
    net = recalibrated(supernet, arch, data)
    return held_out_accuracy(net, card_of(supernet), as_trained(supernet, data), split)


def known_accuracy(
    net: Net,
    card: Card,
    space: Space,
    table: AccuracyTable | None,
    data: ImageSet | None,
    predictor: AccuracyPredictor | None = None,
) -> Accuracy | None:
    """The accuracy of a recalibrated sub-network, as it is reported: measured on `val`, by the accuracy table or here;
    else measured on `search`, by an accuracy table without `val`; else predicted. None without accuracy table and data.

    Args:
        card, space: of the supernet.
        predictor: fitted to the accuracy table; by default it is fitted here where it is needed.

    Raises:
        PredictorError: the accuracy table is too small to fit a predictor to.
    """
    code = space.encode(net.arch)
    if table is not None and (accuracy := table.reported(code)) is not None:
        return accuracy
    if data is not None:
        return held_out_accuracy(net, card, data, "val", TOLD_ON)
    if table is not None:
        return table.chosen_by(code) or (predictor or fit_accuracy(table)).accuracy_of(code)
    return None


def held_out_accuracy(net: Net, card: Card | None, data: ImageSet, split: Held, most: int | None = None) -> Accuracy:
    """Accuracy of a network on a held-out split, or on `most` of its images. On `search` it is not independent.

    Args:
        card: of the supernet that the network is of; None if it was trained on `data` as it is now.

    Raises:
        DataError: the split is empty.
    """
    images = data.search if split == "search" else data.val
    rows = images.rows(most)
    value = evaluate(net, images.images, images.labels, scaled=data.scaled, rows=rows)
    return Accuracy.measured(value, len(rows), split == "val" and val_is_apart(card, data))


def card_of(supernet: SuperNet) -> Card | None:
    """The card of a supernet from a file; None for one that is being trained."""
    return supernet.card if isinstance(supernet, LoadedSuperNet) else None

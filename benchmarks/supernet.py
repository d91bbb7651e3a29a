"""The figures in the card of the default supernet: its calibration images and its accuracy predictor.

Needs CIFAR-10 under ELASTICVIT_DATA, and a minute or two of one core.
"""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from elasticvit import pretrained
from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, as_trained, evaluate, recalibrate
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet
from elasticvit.nn.supernet_header import table_path
from elasticvit.pretrained.calibration_images import photo_crops

NETWORKS, IMAGES = 20, 2_000


def figures() -> dict[str, object]:
    """The predictor's errors on networks left out of its fit, and top-1 by the images used for recalibration."""
    file = pretrained.shipped(pretrained.DEFAULT)
    if file is None:
        return {"supernet": "none ships in this revision"}
    predictor = asdict(fit_accuracy(AccuracyTable.load(table_path(file))).summary)
    supernet = load_supernet(file)
    try:
        recalibrated: object = _by_images(supernet, load_named(supernet.card.data))
    except DataError as error:
        recalibrated = f"not given: {error}"
    return {"predictor": predictor, "top1_by_calibration": recalibrated}


def _by_images(supernet: LoadedSuperNet, data: ImageSet) -> dict[str, float]:
    """Mean top-1 of both ends and random networks on held-out images, by the images that set batch norm statistics."""
    data, space = as_trained(supernet, data), supernet.space
    assert supernet.calibration is not None
    k, _, side, _ = supernet.calibration.shape
    kinds: dict[str, Tensor | None] = {
        "training_images": data.train.images[:RECALIBRATION_IMAGES],
        "carried": supernet.calibration,
        "photo_crops": photo_crops(k, side, np.random.default_rng((0, 3))),
        "none": None,
    }
    images, labels = data.scaled(data.search.images[:IMAGES]), data.search.labels[:IMAGES]
    archs = [space.smallest(), space.largest(), *map(space.decode, space.sample(np.random.default_rng(77), NETWORKS))]
    torch.set_num_threads(1)

    def top1(kind: Tensor | None) -> float:
        nets = (supernet.extract(arch) for arch in archs)
        ready = nets if kind is None else (recalibrate(net, data.scaled(kind)) for net in nets)
        return round(float(np.mean([evaluate(net.eval(), images, labels) for net in ready])), 4)

    return {"networks": len(archs), "images": len(labels), **{name: top1(kind) for name, kind in kinds.items()}}

"""Whether the accuracy that is reported of a chosen network is true of it, on few photographs of one's own.

The candidates are 40 sub-networks of the supernet that ships, each with a linear classifier for the 5 classes of
`flowers` in place of its last layer: what fine-tuning does, in seconds instead of minutes. The 750 photographs are
divided at random, again and again: 480 fit the classifiers, 60 choose a network, 60 measure its accuracy, and 150 are
kept apart from all. Before, the images that chose also measured it. Needs `flowers` under ELASTICVIT_DATA, and about
two minutes of one core.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from elasticvit import pretrained
from elasticvit.accuracy.evaluate import calibration_images, recalibrate
from elasticvit.accuracy.predictor import fit_accuracy
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.accuracy.tabulate import EVALUATED, spread
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes
from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet
from elasticvit.training.finetune.report import RIDGE, features_of

DIVISIONS, COMPONENTS = 100, 64
TRAIN, CHOOSE, TELL, APART = 480, 60, 60, 150
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """A chosen network: its accuracy as reported before, as reported now, and on the photographs kept apart."""

    before: Accuracy
    now: Accuracy
    apart: Accuracy


def figures() -> dict[str, object]:
    """Mean of reported less kept apart, in points, and how often 95 % intervals reported and the truth agree."""
    file = pretrained.shipped(pretrained.DEFAULT)
    if file is None:
        return {"supernet": "none ships in this revision"}
    base = load_supernet(file)
    try:
        photographs = load_named(f"flowers@{base.space.resolutions[-1]}")
    except DataError as error:
        return {"photographs": f"not given: {error}"}
    torch.set_num_threads(1)
    codes = spread(base.space, EVALUATED)
    features, labels = _features(base, codes, replace(photographs, mean=base.card.mean, std=base.card.std))
    by_prediction, by_measurement, predicted = list[Answer](), list[Answer](), list[Answer]()
    for table, apart in _divided(base, codes, features, labels):
        predictor = fit_accuracy(table)
        chosen_by = predictor.predict(codes)
        best, luckiest = int(chosen_by.argmax()), int(table.top1.argmax())
        by_prediction.append(_answer(table, best, apart))
        by_measurement.append(_answer(table, luckiest, apart))
        uncorrected = Accuracy(float(chosen_by[best]), "predicted")
        predicted.append(replace(by_prediction[-1], before=uncorrected, now=predictor.accuracy_of(codes[best])))
    return {
        "divisions": DIVISIONS,
        "networks": EVALUATED,
        "measured, of the best by measurement": _summary(by_measurement),
        "measured, of the best by prediction": _summary(by_prediction),
        "predicted, of the best by prediction": _summary(predicted),
    }


def _features(base: LoadedSuperNet, codes: Codes, photographs: ImageSet) -> tuple[Tensor, Tensor]:
    """The first principal components of what the last layer of every sub-network is given, of unit variance, shape
    (networks, photographs, `COMPONENTS`), and the labels."""
    parts = (photographs.train, photographs.search, photographs.val)
    images, calibration = torch.cat([part.images for part in parts]), calibration_images(base, None)
    every = []
    for code in codes:
        net = recalibrate(base.extract(base.space.decode(code)), calibration)
        features = features_of(net, images, photographs.scaled).double()
        centred = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
        left, _, _ = torch.linalg.svd(centred, full_matrices=False)
        every.append(left[:, :COMPONENTS] * len(images) ** 0.5)
    return torch.stack(every), torch.cat([part.labels for part in parts])


def _divided(
    base: LoadedSuperNet, codes: Codes, features: Tensor, labels: Tensor
) -> Iterator[tuple[AccuracyTable, Bools]]:
    """Accuracy tables of random divisions, each with which photographs that were kept apart the networks know."""
    rng, ends = np.random.default_rng(0), np.cumsum([TRAIN, CHOOSE, TELL, APART])
    for _ in range(DIVISIONS):
        train, choose, tell, apart = np.split(rng.permutation(len(labels))[: ends[-1]], ends[:-1])
        right = _right(features, labels, torch.from_numpy(train))
        top1, val = right[:, choose].mean(axis=1), right[:, tell].mean(axis=1)
        yield AccuracyTable(base.space, codes, top1, CHOOSE, val, TELL, val_independent=True), right[:, apart]


def _right(features: Tensor, labels: Tensor, train: Tensor) -> Bools:
    """Which photographs each network classifies correctly, shape (networks, photographs), by a ridge regression from
    its features to the classes of the photographs `train`."""
    x, targets = features[:, train], F.one_hot(labels[train]).double()
    level = targets.mean(0)
    system = x.mT @ x + RIDGE * len(train) * torch.eye(x.shape[-1], dtype=x.dtype)
    weights = torch.linalg.solve(system, x.mT @ (targets - level))
    right: Bools = ((features @ weights + level).argmax(-1) == labels).numpy()
    return right


def _answer(table: AccuracyTable, row: int, apart: Bools) -> Answer:
    before, now = table.chosen_by(table.codes[row]), table.reported(table.codes[row])
    assert before is not None and now is not None
    return Answer(before, now, Accuracy.measured(float(apart[row].mean()), APART, independent=True))


def _summary(answers: list[Answer]) -> dict[str, float]:
    return {
        "points_too_high_before": _points([answer.before.value - answer.apart.value for answer in answers]),
        "points_too_high_now": _points([answer.now.value - answer.apart.value for answer in answers]),
        "apart_within_reported_interval": round(float(np.mean([_within(one.now, one.apart) for one in answers])), 3),
    }


def _points(differences: list[float]) -> float:
    return round(100 * float(np.mean(differences)), 2)


def _within(reported: Accuracy, apart: Accuracy) -> bool:
    assert reported.lower is not None and reported.upper is not None
    return reported.lower <= apart.value <= reported.upper

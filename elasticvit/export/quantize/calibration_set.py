"""Images for quantization: to observe the ranges of values, and to measure the change of top-1."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elasticvit.accuracy.evaluate import as_trained
from elasticvit.data.image_set import ImageSet
from elasticvit.export.input_form import InputForm
from elasticvit.nn.net import sized
from elasticvit.nn.supernet_file import LoadedSuperNet

CALIBRATING = 64
# With 2,000 images, half a point of top-1 is about one standard error of the change by int8.
HELD_OUT = 2000
TOGETHER = 32


@dataclass(frozen=True, eq=False, slots=True)
class HeldOut:
    """Images (N, 3, H, W) of any side and their classes (N,); `name` of the image set.

    `scaled` makes what networks see of some of them: they may be bytes, and as floats more than memory holds.
    """

    images: Tensor
    labels: Tensor
    name: str
    scaled: Callable[[Tensor], Tensor] = lambda images: images

    def batches(self, side: int, form: InputForm) -> Iterator[NDArray[Any]]:
        """What a file of that form is given, (B, side, side, 3), in order."""
        for batch in torch.split(self.images, TOGETHER):
            yield as_taken(self.scaled(batch), side, form)


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationSet:
    """Calibration images (N, 3, H, W), as networks see them, and held-out ones if there are any."""

    calibration: Tensor
    held_out: HeldOut | None = None


def calibration_set_of(
    supernet: LoadedSuperNet, data: ImageSet | None, held_out: int = HELD_OUT
) -> CalibrationSet | None:
    """The images for the networks of a supernet; None if its file carries none and there is no data.

    Args:
        data: the image set that the supernet's card names, if it is available.
        held_out: the number of images, of the search split, on which top-1 is measured.
    """
    images = None if data is None else as_trained(supernet, data)
    if supernet.calibration is not None:
        calibration = supernet.card.scaled(supernet.calibration[:CALIBRATING])
    elif images is not None:
        calibration = images.scaled(images.train.images[:CALIBRATING])
    else:
        return None
    if images is None:
        return CalibrationSet(calibration)
    split = images.search
    name = supernet.card.data.rstrip("/").rpartition("/")[2]
    return CalibrationSet(calibration, HeldOut(split.images[:held_out], split.labels[:held_out], name, images.scaled))


def random_calibration_set(side: int, seed: int = 0) -> CalibrationSet:
    """Noise in place of images, for networks that are only timed."""
    rng = np.random.default_rng(seed)
    return CalibrationSet(torch.from_numpy(rng.uniform(-1, 1, (CALIBRATING // 4, 3, side, side)).astype(np.float32)))


def as_taken(images: Tensor, side: int, form: InputForm) -> NDArray[Any]:
    """What a file of that form is given for these images: (N, side, side, 3), in their own precision."""
    return form.taken(np.ascontiguousarray(sized(images, side).permute(0, 2, 3, 1).numpy()))

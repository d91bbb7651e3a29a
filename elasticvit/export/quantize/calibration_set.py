"""Images for quantization: to observe the ranges of values, and to measure the change of top-1."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elasticvit.accuracy.evaluate import as_trained
from elasticvit.accuracy.independence import val_is_apart
from elasticvit.data.image_set import Held, ImageSet
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

    `scaled` makes what networks see of some of them: they may be bytes, and as floats more than memory holds. `rows`
    are the numbers of the images that the classes are of, None for all. `independent` says whether they chose nothing
    (`elasticvit.accuracy.value`).
    """

    images: Tensor
    labels: Tensor
    name: str
    scaled: Callable[[Tensor], Tensor] = lambda images: images
    rows: Tensor | None = None
    independent: bool | None = None

    def batches(self, side: int, form: InputForm) -> Iterator[NDArray[Any]]:
        """What a file of that form is given, (B, side, side, 3), in order."""
        rows = torch.arange(len(self.labels)) if self.rows is None else self.rows
        for batch in torch.split(rows, TOGETHER):
            yield as_taken(self.scaled(self.images[batch]), side, form)


@dataclass(frozen=True, eq=False, slots=True)
class CalibrationSet:
    """Calibration images (N, 3, H, W), as networks see them, and held-out ones if there are any."""

    calibration: Tensor
    held_out: HeldOut | None = None


def calibration_set_of(
    supernet: LoadedSuperNet, data: ImageSet | None, held_out: int = HELD_OUT, split: Held = "val"
) -> CalibrationSet | None:
    """The images for the networks of a supernet; None if its file carries none and there is no data.

    Args:
        data: the image set that the supernet's card names, if it is available.
        held_out: maximum number of images on which top-1 is measured.
        split: `val` to tell what a precision changes, `search` to choose a recipe by it.
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
    held = images.search if split == "search" else images.val
    name = supernet.card.data.rstrip("/").rpartition("/")[2]
    apart = split == "val" and val_is_apart(supernet.card, images)
    rows = held.rows(held_out)
    return CalibrationSet(calibration, HeldOut(held.images, held.labels[rows], name, images.scaled, rows, apart))


def random_calibration_set(side: int, seed: int = 0) -> CalibrationSet:
    """Noise in place of images, for networks that are only timed."""
    rng = np.random.default_rng(seed)
    return CalibrationSet(torch.from_numpy(rng.uniform(-1, 1, (CALIBRATING // 4, 3, side, side)).astype(np.float32)))


def as_taken(images: Tensor, side: int, form: InputForm) -> NDArray[Any]:
    """What a file of that form is given for these images: (N, side, side, 3), in their own precision."""
    return form.taken(np.ascontiguousarray(sized(images, side).permute(0, 2, 3, 1).numpy()))

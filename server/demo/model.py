"""Runs a downloaded model on this machine and compares it with the network in torch that it was exported from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch is loaded when a model is tried
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float32]]
MAX_IMAGES = 1000


@dataclass(frozen=True)
class ModelCheck:
    """The comparison: for `same` of `images` images the file and torch gave the same class. `top1` is the accuracy on
    `tested` labelled images that neither training nor search used, None if the image set `data` is not available."""

    data: str
    terms: str | None
    same: int
    images: int
    top1: float | None
    tested: int


def try_model(tflite: bytes, arch: dict[str, Any], supernet: Path) -> ModelCheck:
    """Run a .tflite of this arch, canonical JSON, and the same network of the supernet file on the same images.

    These are the calibration images in the supernet file, else the first held-out ones. Raises ElasticVitError.
    """
    import torch

    from elasticvit.accuracy.evaluate import as_trained, recalibrated
    from elasticvit.archs.arch import Arch
    from elasticvit.data.image_set import load_named
    from elasticvit.errors import DataError
    from elasticvit.nn.supernet_file import load_supernet

    loaded = load_supernet(supernet)
    card = loaded.card
    try:
        data = as_trained(loaded, load_named(card.data))
    except DataError:
        data = None
    net = recalibrated(loaded, Arch.from_json(arch), data)
    if loaded.calibration is not None:
        images = loaded.calibration
    else:
        assert data is not None, "recalibrated() would have raised"
        images = data.search.images[:MAX_IMAGES]
    scaled = card.scaled(images)
    with torch.inference_mode():
        expected = net(scaled).argmax(1).numpy()
    same = int((_answers(tflite, scaled) == expected).sum())
    if data is None:
        return ModelCheck(card.data, card.terms, same, len(images), None, 0)
    labels = data.val.labels[:MAX_IMAGES].numpy()
    right = _answers(tflite, data.scaled(data.val.images[:MAX_IMAGES])) == labels
    return ModelCheck(card.data, card.terms, same, len(images), float(right.mean()), len(labels))


def _answers(tflite: bytes, images: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The classes that a .tflite predicts for scaled images (N, 3, H, W), one at a time on one thread."""
    import torch.nn.functional as F
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=tflite, num_threads=1)
    runner.allocate_tensors()
    into, out = runner.get_input_details()[0], runner.get_output_details()[0]
    side = int(into["shape"][1])
    if side != images.shape[-1]:
        images = F.interpolate(images, size=side, mode="bicubic", align_corners=False)
    classes = []
    for image in np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()):
        runner.set_tensor(into["index"], image[None])
        runner.invoke()
        classes.append(int(runner.get_tensor(out["index"])[0].argmax()))
    return np.array(classes)

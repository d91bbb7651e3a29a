"""Holds a written file against the network that it came from."""

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from elasticvit.archs.arch import Arch
from elasticvit.costs.flops import macs
from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import Array
from elasticvit.export.input_form import InputForm
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import INPUT, OUTPUT
from elasticvit.nn.net import Net

TOLERANCE = 1e-5
_AS_TRAINED = InputForm()


def run_tflite(data: bytes, images: Array | NDArray[np.uint8]) -> Array:
    """Logits (B, classes) of images (B, side, side, 3) as the file takes them, one by one on one thread.

    Raises:
        ExportError: LiteRT does not take the file or the images.
    """
    return run(loaded(data), images)


def loaded(data: bytes) -> Interpreter:
    """A file ready to run on one thread. Raises `ExportError` if LiteRT does not take it."""
    try:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT does not run the written file: {error}") from error


def run(interpreter: Interpreter, images: Array | NDArray[np.uint8]) -> Array:
    """What `run_tflite` gives, of a file that is loaded. Raises `ExportError`."""
    try:
        signature = interpreter.get_signature_runner("serving_default")
        return np.concatenate([signature(**{INPUT: image[None]})[OUTPUT] for image in images])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ExportError(f"LiteRT does not run the written file: {error}") from error


def check(
    data: bytes,
    net: Net,
    form: InputForm = _AS_TRAINED,
    seed: int = 0,
    images: int = 2,
    interpreter: Interpreter | None = None,
) -> float:
    """The largest relative l2 difference of the file's logits from the network's, over seeded images of that form.

    `interpreter` holds the file where somebody has loaded it already (`loaded`).

    Raises:
        ExportError: the difference is above 1e-5, the file's MACs are not the architecture's, or LiteRT refuses it.
    """
    check_macs(data, net.arch)
    side = net.arch.resolution
    rng = np.random.default_rng(seed)
    inputs = form.random(rng, images, side)
    parameter = next(net.parameters())
    with torch.inference_mode():
        expected = (
            net(torch.from_numpy(form.normalised(inputs)).permute(0, 3, 1, 2).to(parameter)).double().cpu().numpy()
        )
    difference = relative_difference(run(interpreter or loaded(data), inputs), expected)
    # Not `>`: NaN must fail as well.
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the file's logits differ from the network's by {difference:.1e} (relative), above {TOLERANCE:.0e};"
            " nothing was written"
        )
    return difference


def check_macs(data: bytes, arch: Arch) -> None:
    """Raises `ExportError` if a file's MACs are not the architecture's: a part of the network was folded away."""
    counted, due = tflite_macs(data), macs(arch)
    if counted != due:
        raise ExportError(f"the file has {counted} MACs, the architecture {due}: a part of the network was lost")


def relative_difference(found: Array, expected: Array) -> float:
    """The largest over images; equal logits differ by 0 even where they are 0."""
    distance = np.linalg.norm(found - expected, axis=1)
    length = np.linalg.norm(expected, axis=1)
    return float(np.max(distance / np.maximum(length, np.finfo(np.float64).tiny)))

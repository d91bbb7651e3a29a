"""Compares a written file with the network that it was written from.

A sound file differs from the network by float32 rounding, about 1e-6 of the logits. Where the logits are much smaller
than the terms that they are sums of, as in a network that has hardly learnt its two classes, the same rounding is a
large fraction of them. So a difference above `TOLERANCE` is compared with the rounding error of the network itself:
the distance between its own results in float32 and in float64.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from elasticvit.archs.arch import Arch
from elasticvit.costs.flops import macs
from elasticvit.errors import ExportError
from elasticvit.export.graph.ops import Array
from elasticvit.export.input_form import InputForm
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import INPUT, OUTPUT
from elasticvit.nn.net import Net

TOLERANCE = 1e-5
"""Relative l2 difference that a file may always have."""
ROUNDING_MARGIN = 16
"""Multiple of the network's own rounding error that a file may have. 48 networks had 6 at most; one flipped sign of a
weight gives hundreds."""
ROUNDING_IMAGES = 8
_AS_TRAINED = InputForm()


def run_tflite(data: bytes, images: Array | NDArray[np.uint8]) -> Array:
    """Logits (B, classes) of images (B, side, side, 3) as the file takes them, one by one on one thread.

    Raises:
        ExportError: LiteRT does not run the file on these images.
    """
    return run(load_tflite(data), images)


def load_tflite(data: bytes) -> Interpreter:
    """An interpreter of the file, one thread, tensors allocated. Raises `ExportError` if LiteRT refuses the file."""
    try:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"LiteRT does not run the written file: {error}") from error


def run(interpreter: Interpreter, images: Array | NDArray[np.uint8]) -> Array:
    """Like `run_tflite`, with a loaded file. Raises `ExportError`."""
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

    Args:
        interpreter: of this file, if the caller has loaded it (`load_tflite`).

    Raises:
        ExportError: the difference is more than float32 rounding (`require_equal`), the file's MACs are not the
            architecture's, or LiteRT refuses the file.
    """
    check_macs(data, net.arch)
    rng = np.random.default_rng(seed)
    inputs = form.random(rng, images, net.arch.resolution)
    parameter = next(net.parameters())
    with torch.inference_mode():
        expected = net(_as_seen(form, inputs).to(parameter)).double().cpu().numpy()

    def rounding() -> float:
        return rounding_error(net, _as_seen(form, form.random(rng, ROUNDING_IMAGES, net.arch.resolution)))

    actual = run(interpreter or load_tflite(data), inputs)
    return require_equal(actual, expected, rounding, "the file's logits differ from the network's")


def require_equal(actual: Array, expected: Array, rounding: Callable[[], float], message: str) -> float:
    """The relative difference of results, both (B, values), if float32 rounding explains it.

    Args:
        rounding: gives the `rounding_error` of the network; called only if the difference is above `TOLERANCE`.
        message: begins the error's.

    Raises:
        ExportError: the difference is above `TOLERANCE` and above `ROUNDING_MARGIN` times the rounding error, or NaN.
    """
    difference = relative_difference(actual, expected)
    # Not `>`: NaN must fail as well.
    if difference <= TOLERANCE:
        return difference
    distance, allowed = float(np.max(np.linalg.norm(actual - expected, axis=1))), ROUNDING_MARGIN * rounding()
    if distance <= allowed:
        return difference
    raise ExportError(
        f"{message} by {difference:.1e} (relative), above {TOLERANCE:.0e}, and by {distance:.1e} (absolute), above"
        f" {allowed:.1e}, {ROUNDING_MARGIN} times its rounding error in float32; nothing was written"
    )


def rounding_error(module: nn.Module, inputs: Tensor) -> float:
    """The largest l2 distance between the results in float32 and in float64, over inputs (B, …) on the CPU."""
    single, double = (_evaluated(module, inputs, dtype) for dtype in (torch.float32, torch.float64))
    return float(np.max(np.linalg.norm(single - double, axis=1)))


def _evaluated(module: nn.Module, inputs: Tensor, dtype: torch.dtype) -> NDArray[np.float64]:
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with torch.inference_mode():
        results: Tensor = functional_call(module, state, (inputs.to(dtype),))
    return results.flatten(1).double().numpy()


def _as_seen(form: InputForm, inputs: NDArray[Any]) -> Tensor:
    """What the network sees, (B, 3, side, side), of images as the file takes them."""
    return torch.from_numpy(form.normalised(inputs)).permute(0, 3, 1, 2)


def check_macs(data: bytes, arch: Arch) -> None:
    """Raises `ExportError` if a file's MACs are not the architecture's: a part of the network is missing."""
    actual, expected = tflite_macs(data), macs(arch)
    if actual != expected:
        raise ExportError(f"the file has {actual} MACs, the architecture {expected}: a part of the network was lost")


def relative_difference(actual: Array, expected: Array) -> float:
    """The largest over images; equal logits differ by 0 even where they are 0."""
    distance = np.linalg.norm(actual - expected, axis=1)
    length = np.linalg.norm(expected, axis=1)
    return float(np.max(distance / np.maximum(length, np.finfo(np.float64).tiny)))

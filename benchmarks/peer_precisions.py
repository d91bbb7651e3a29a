"""A peer's file in other precisions. The fastest counts, so that no peer loses by an unsuitable choice of precision.

Blanket dynamic int8 is left out: depthwise convolutions with float inputs and int8 weights have no fast kernel. Which
operators are quantised is chosen by their kind, as a user of the quantizer would choose it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import TFLOperationName

CALIBRATION_IMAGES = 4
_FC, _CONV, _ALL = TFLOperationName.FULLY_CONNECTED, TFLOperationName.CONV_2D, TFLOperationName.ALL_SUPPORTED


def candidates(float32: bytes) -> dict[str, bytes]:
    """The file in every other precision, by name, from its float32 form."""
    return {name: _quantised(float32, fill) for name, fill in _FILLS.items()}


def _quantised(float32: bytes, fill: Callable[[Any], None]) -> bytes:
    recipe = recipe_manager.RecipeManager()
    fill(recipe)
    tool = quantizer.Quantizer(bytearray(float32), recipe.get_quantization_recipe())
    ranges = tool.calibrate(_images(float32), num_threads=1) if tool.need_calibration else None
    result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _images(float32: bytes) -> dict[str, list[dict[str, Any]]]:
    """Random images by signature and input: ranges of activations decide nothing about speed."""
    interpreter: Any = Interpreter(model_content=float32)
    interpreter.allocate_tensors()
    rng, answer = np.random.default_rng(0), {}
    for signature in interpreter.get_signature_list():
        details = interpreter.get_signature_runner(signature).get_input_details()
        answer[signature] = [
            {name: rng.uniform(-1, 1, detail["shape"]).astype(np.float32) for name, detail in details.items()}
            for _ in range(CALIBRATION_IMAGES)
        ]
    return answer


def _float16(recipe: Any) -> None:  # noqa: ANN401 - the quantizer comes without types
    recipe.add_weight_only_config(".*", _ALL, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)


def _dynamic_fc(recipe: Any) -> None:  # noqa: ANN401
    recipe.add_dynamic_config(".*", _FC, 8)


def _dynamic_fc_conv(recipe: Any) -> None:  # noqa: ANN401
    _dynamic_fc(recipe)
    recipe.add_dynamic_config(".*", _CONV, 8)


def _static(recipe: Any) -> None:  # noqa: ANN401
    recipe.add_static_config(".*", _ALL, 8, 8)


_FILLS: dict[str, Callable[[Any], None]] = {
    "float16": _float16,
    "dynamic_int8 FC": _dynamic_fc,
    "dynamic_int8 FC+CONV": _dynamic_fc_conv,
    "int8": _static,
}

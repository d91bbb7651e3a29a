"""The kinds of file that a network is exported as, and what writes them."""

from enum import StrEnum


class Format(StrEnum):
    """What `--format` and the wire call them.

    tflite: for phones, one image, channels last. onnx, pt2: for ONNX runtimes and for torch, any number of images, the
    network as torch has it, channels first.
    """

    TFLITE = "tflite"
    ONNX = "onnx"
    PT2 = "pt2"


class Converter(StrEnum):
    """What writes a .tflite.

    direct: this package, in well under a second. litert-torch: Google's converter, in half a minute; another way to the
    same function.
    """

    DIRECT = "direct"
    LITERT_TORCH = "litert-torch"

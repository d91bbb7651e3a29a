"""What an exported model is, as JSON beside it.

Nothing in it depends on when or where it was written: exporting the same network again gives the same bytes.
"""

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from elasticvit.arch import Arch
from elasticvit.nn.files import Card

AccuracySource = Literal["measured", "predicted"]
Triple = tuple[float, float, float]
PACKAGES = ("elasticvit", "torch", "numpy", "flatbuffers", "ai-edge-litert")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputInfo(_Part):
    """What the file takes: `(pixel / 255 - mean) / std` per channel, red, green, blue; `range` holds every value."""

    name: str
    shape: tuple[int, int, int, int]
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["float32"] = "float32"
    range: tuple[float, float]
    mean: Triple
    std: Triple


class OutputInfo(_Part):
    """What the file gives: logits; `names` of the classes where they are known."""

    name: str
    classes: int
    names: tuple[str, ...] | None


class SupernetInfo(_Part):
    """Which supernet the weights are from; `sha256` of its file where it is known."""

    name: str
    sha256: str | None


class Accuracy(_Part):
    """Top-1, 0 to 1, on held-out images: `measured` of this very network, or `predicted` from others of its supernet
    that were measured, where the images are not at hand."""

    value: float
    source: AccuracySource = "measured"


class Manifest(_Part):
    """The description of one model file."""

    schema_version: Literal[1] = 1
    format: Literal["tflite"] = "tflite"
    sha256: str
    size_bytes: int
    arch: dict[str, Any]
    arch_id: str
    macs: int
    params: int
    precision: Literal["float32"] = "float32"
    input: InputInfo
    output: OutputInfo
    supernet: SupernetInfo | None
    terms: str | None
    """Conditions under which the model may be used, from the supernet's card; None where it states none."""
    accuracy: Accuracy | None
    max_relative_difference: float
    """Relative l2 difference of the logits from torch on seeded images: the largest, rounded up to one digit."""
    versions: dict[str, str]
    created_by: str

    def to_json(self) -> str:
        """Indented for people, keys sorted for comparison, one newline at the end."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2) + "\n"

    def read_arch(self) -> Arch:
        return Arch.from_json(self.arch)


def describe_input(name: str, side: int, card: Card | None) -> InputInfo:
    """The input of a network of that side; without a card, images are scaled to -1 … 1."""
    mean, std = (card.mean, card.std) if card else ((0.5,) * 3, (0.5,) * 3)
    edges = [(edge - m) / s for m, s in zip(mean, std, strict=True) for edge in (0, 1)]
    return InputInfo(name=name, shape=(1, side, side, 3), range=(min(edges), max(edges)), mean=mean, std=std)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the bytes of a file."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found

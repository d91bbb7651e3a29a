"""What an exported model is, as JSON beside it.

Nothing in it depends on when or where it was written: exporting the same network again gives the same bytes. Manifests
of schema versions 1 and 2 are read as well; what they do not say has its default here.
"""

import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from elasticvit.accuracy.value import Accuracy, AccuracySource
from elasticvit.archs.arch import Arch
from elasticvit.export.file_kinds import Format
from elasticvit.export.input_form import InputForm, InputKind, Triple
from elasticvit.export.precision import Precision
from elasticvit.latency.calibration import Statistic

if TYPE_CHECKING:
    from elasticvit.nn.supernet_file import Card

Fraction = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(gt=0)]
PACKAGES = ("elasticvit", "torch", "numpy", "flatbuffers", "ai-edge-litert")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputInfo(_Part):
    """What the file takes, one image, red, green, blue; `range` holds every value.

    `kind` normalised: the caller computes `(pixel / 255 - mean) / std` per channel. pixels and uint8: the file does.
    """

    name: str
    kind: InputKind = InputKind.NORMALISED
    shape: tuple[int, int, int, int]
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: Literal["float32", "uint8"] = "float32"
    range: tuple[float, float]
    mean: Triple
    std: Triple

    @property
    def form(self) -> InputForm:
        return InputForm(self.kind, self.mean, self.std)


class OutputInfo(_Part):
    """What the file gives: logits; `names` of the classes where they are known."""

    name: str
    classes: int
    names: tuple[str, ...] | None


class SupernetInfo(_Part):
    """Which supernet the weights are from; `sha256` of its file and the name of its `data` where they are known."""

    name: str
    sha256: str | None
    data: str | None = None


class AccuracyInfo(_Part):
    """Top-1, 0 to 1: `measured` of this very network, or `predicted` from others of its supernet that were measured, if
    the images are not available. Of the network in float32; see `Top1Change`.

    `images` is the number of images that it was measured on, None where it is predicted or not known. `lower` and
    `upper` are the 95 % interval. `independent` says whether these images, or those behind the prediction, trained and
    chose nothing (True) or also chose the network, so that less is to be expected (False); None where it is not known.
    """

    value: float
    source: AccuracySource = "measured"
    images: Annotated[int, Field(gt=0)] | None = None
    lower: float | None = None
    upper: float | None = None
    independent: bool | None = None

    @classmethod
    def of(cls, accuracy: Accuracy) -> "AccuracyInfo":
        return cls.model_validate({**asdict(accuracy), "images": accuracy.images or None})


class Top1Change(_Part):
    """How far this precision moves top-1 from float32's, -1 to 1, with the number of images and their source.

    `lower` and `upper` are the 95 % interval of the paired difference, None where it is that of other networks;
    `independent` as in `AccuracyInfo`.
    """

    value: Annotated[float, Field(ge=-1, le=1)]
    images: Annotated[int, Field(gt=0)]
    source: str
    lower: float | None = None
    upper: float | None = None
    independent: bool | None = None


class Latency(_Part):
    """What is known of the latency on one device, batch 1: an interval that holds with `confidence`, a measurement of
    this very network, or both. Milliseconds, of the median or the 90th percentile; `profile` is the device profile
    under which they hold."""

    device: str
    profile: str | None = None
    statistic: Statistic = "p50"
    predicted_ms: Milliseconds | None = None
    lower_ms: Milliseconds | None = None
    upper_ms: Milliseconds | None = None
    confidence: Fraction | None = None
    measured_ms: Milliseconds | None = None


class RecipeInfo(_Part):
    """The quantization recipe; `sha256` of its JSON identifies it among those of the same name."""

    name: str
    version: str | None = None
    sha256: str | None = None


class Description(_Part):
    """What is known of a model before its file is written, and therefore stored in the file itself."""

    arch: dict[str, Any]
    arch_id: str
    macs: int
    params: int
    precision: Precision = Precision.FLOAT32
    recipe: RecipeInfo | None = None
    """Of the quantisation; None if it needed none."""
    input: InputInfo
    output: OutputInfo
    supernet: SupernetInfo | None
    terms: str | None
    """Conditions under which the model may be used, from the supernet's card; None if it states none."""
    accuracy: AccuracyInfo | None
    top1_change: Top1Change | None = None
    latency: tuple[Latency, ...] = ()
    versions: dict[str, str]
    created_by: str

    def read_arch(self) -> Arch:
        return Arch.from_json(self.arch)


class Manifest(Description):
    """The description of one model file."""

    schema_version: Literal[1, 2, 3] = 3
    format: Format = Format.TFLITE
    sha256: str
    size_bytes: int
    delegate: dict[str, Any] | None = None
    """How much of the file a delegate takes; None if it was not checked."""
    max_relative_difference: float
    """Relative l2 difference of the logits from torch on seeded images: the largest, rounded up to one digit."""

    def to_json(self) -> str:
        """Indented for people, keys sorted for comparison, one newline at the end."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2) + "\n"


def describe_input(name: str, side: int, card: "Card | None", kind: InputKind = InputKind.NORMALISED) -> InputInfo:
    """The input of a network of that side; without a card, images are scaled to -1 … 1."""
    form = InputForm(kind, card.mean, card.std) if card else InputForm(kind)
    dtype: Literal["float32", "uint8"] = "uint8" if kind is InputKind.UINT8 else "float32"
    return InputInfo(
        name=name, kind=kind, shape=(1, side, side, 3), dtype=dtype, range=form.range, mean=form.mean, std=form.std
    )


def data_name(card: "Card") -> str:
    """The data's name without the folders above it: a manifest does not depend on where it was written."""
    return card.data.rstrip("/").rpartition("/")[2]


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the bytes of a file."""
    return {name: _version(name) for name in PACKAGES}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"

"""Which operators of a space's networks take int8 weights: found offline by measuring, kept as JSON, applied by export.

A recipe is of one space and one kind of device, and says on what evidence: which groups of operators gain, how much
faster whole networks are, and what that costs in accuracy. `find_recipe` makes one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import PRESETS
from elasticvit.errors import ArchError, ExportError
from elasticvit.export.precision import Precision

FORMAT = 1
HERE = Path(__file__).parent / "recipes"
# Fields that have another name in the files.
KEYS = {"accuracy_drops": "judged", "evaluated_on": "judged_on"}


@dataclass(frozen=True, slots=True)
class Timed:
    """A network's median latency without and with the recipe, of one interleaved run; `ratio_lower` is the one-sided
    95 % bootstrap bound of the median of paired ratios."""

    arch_id: str
    mmacs: float
    float32_ms: float
    mixed_ms: float
    ratio_lower: float


@dataclass(frozen=True, slots=True)
class AccuracyDrop:
    """A network's top-1 in float32 and in another precision, fractions (0 to 1), on the same held-out images."""

    arch_id: str
    precision: Precision
    images: int
    float32: float
    other: float

    @property
    def drop(self) -> float:
        return self.float32 - self.other


@dataclass(frozen=True, slots=True)
class QuantizationRecipe:
    """Groups of operators (`elasticvit.export.tflite.number_formats.group`) whose weights become int8.

    Attributes:
        device: what it was measured on: processor, instruction set, runtime, threads.
        gains: of each group that was measured, the fraction of a network's latency that it alone saves.
        timed, accuracy_drops: evidence on whole networks. `accuracy_drops` holds the other precisions as well, and is
            empty if there were no trained weights of the space.
        evaluated_on: the supernet that the networks were of, the sha256 of its file, and the images.
    """

    name: str
    version: int
    space: str
    device: Mapping[str, str]
    groups: tuple[str, ...]
    gains: Mapping[str, float] = field(default_factory=dict)
    timed: tuple[Timed, ...] = ()
    accuracy_drops: tuple[AccuracyDrop, ...] = ()
    evaluated_on: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """small-x86_64@1."""
        return f"{self.name}@{self.version}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def drop(self, precision: Precision = Precision.DYNAMIC_INT8) -> float | None:
        """The mean loss of top-1 in that precision, a fraction (0 to 1); None if it was not measured."""
        drops = [network.drop for network in self.accuracy_drops if network.precision == precision]
        return sum(drops) / len(drops) if drops else None

    def to_json(self) -> str:
        values = {KEYS.get(name, name): value for name, value in asdict(self).items()}
        return json.dumps({"format": FORMAT} | values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "QuantizationRecipe":
        """Raises `ExportError` for anything that `to_json` did not write."""
        try:
            data: dict[str, Any] = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            names = {KEYS.get(known.name, known.name): known.name for known in fields(cls)}
            if unknown := set(data) - set(names):
                raise ValueError(f"it has an unknown field {min(unknown)!r}")
            return _ADAPTER.validate_python({names[key]: value for key, value in data.items()})
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = str(error).replace("\n", " ")
            raise ExportError(f"not a recipe: {reason}; make one by `elasticvit recipe`") from error


_ADAPTER = TypeAdapter(QuantizationRecipe)


def load_recipe(path: Path) -> QuantizationRecipe:
    """Raises `ExportError`."""
    try:
        return QuantizationRecipe.from_json(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read the recipe {path}: {error}") from error


@cache
def shipped_recipe(space: str) -> QuantizationRecipe:
    """The recipe that ships for a preset of the space. Raises `ExportError`."""
    path = HERE / f"{space}.json"
    if not path.is_file():
        raise ExportError(
            f"no recipe ships for the space {space!r}: find one by `elasticvit recipe`, and name its file"
        )
    return load_recipe(path)


def recipe_for(arch: Arch) -> QuantizationRecipe:
    """The recipe that ships for the smallest preset that holds a network's body, else the paper's."""
    return shipped_recipe(_preset_of(arch))


@cache
def _preset_of(arch: Arch) -> str:
    for name in ("small", "paper"):
        try:
            space = PRESETS[name]()
            if space.contains(space.adopt(arch)):
                return name
        except ArchError:
            continue
    return "paper"

"""A space of architectures as data, and integer codes for its stage-wise members.

A code is a vector of indices into the choices of `Space.dimensions`, in that order; batches of codes are int8 arrays of
shape (n, D), so a dimension has at most 128 choices. Search, cost tables and predictors only see codes; `decode` makes
the architecture. Widths never decrease from stage to stage (the rule of the authors' sampler; reference architecture,
section 2.2).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.arch import MAX_DEPTH, PAPER_CLASSES, PAPER_HIDDEN, Arch, ConvBlock, ConvStage, VitLayer, VitStage
from elasticvit.errors import ArchError, SpaceError

Codes = NDArray[np.int8]
MAX_CHOICES = np.iinfo(np.int8).max + 1


@dataclass(frozen=True)
class ConvChoices:
    """The choices of a convolution stage; every tuple ascending."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[int, ...]


@dataclass(frozen=True)
class VitChoices:
    """The choices of a transformer stage; every tuple ascending."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    v_scales: tuple[int, ...]
    mlp_ratios: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """A set of architectures.

    Raises:
        SpaceError: a dimension's choices are not ascending, are more than 128 (`MAX_CHOICES`), or hold a value that no
            network has; or the largest widths decrease from stage to stage.
    """

    name: str
    resolutions: tuple[int, ...]
    stem: ConvChoices
    conv: tuple[ConvChoices, ConvChoices]
    vit: tuple[VitChoices, VitChoices, VitChoices, VitChoices]
    hidden: int = PAPER_HIDDEN
    classes: int = PAPER_CLASSES

    def __post_init__(self) -> None:
        for name, choices in self.dimensions:
            if len(choices) > MAX_CHOICES:
                raise SpaceError(f"{name} has {len(choices)} choices; a dimension may have at most {MAX_CHOICES}")
            if not choices or list(choices) != sorted(set(choices)):
                raise SpaceError(f"choices of {name} must be ascending and not empty, got {choices}")
            # Before a stage of that many blocks is built.
            if name.endswith(".depth") and choices[-1] > MAX_DEPTH:
                raise SpaceError(f"{name} must be 1 to {MAX_DEPTH}, got {choices[-1]}")
        try:
            self._check_values()
        except ArchError as error:
            raise SpaceError(f"space {self.name!r} holds values that no network has: {error}") from error
        largest = [widths[-1] for widths in self._widths]
        if largest != sorted(largest):
            raise SpaceError(f"the largest widths must not decrease from stage to stage, got {largest}")

    def _check_values(self) -> None:
        """Raise `ArchError` for a choice that no network can have, wherever it stands among the choices."""
        code = [0] * len(self.dimensions)
        for at, (_, choices) in enumerate(self.dimensions):
            for index in range(len(choices)):
                code[at] = index
                self.decode(code)
            code[at] = 0

    @cached_property
    def dimensions(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and choices of every position of a code."""
        dims: list[tuple[str, tuple[int, ...]]] = [("resolution", self.resolutions)]
        for name, conv in (("stem", self.stem), ("conv0", self.conv[0]), ("conv1", self.conv[1])):
            dims += [(f"{name}.width", conv.widths), (f"{name}.depth", conv.depths), (f"{name}.kernel", conv.kernels)]
            dims += [(f"{name}.expand", conv.expands)]
        for i, vit in enumerate(self.vit):
            dims += [(f"vit{i}.width", vit.widths), (f"vit{i}.depth", vit.depths)]
            dims += [(f"vit{i}.v_scale", vit.v_scales), (f"vit{i}.mlp_ratio", vit.mlp_ratios)]
        return tuple(dims)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of choices of every position, shape (D,)."""
        return np.array([len(choices) for _, choices in self.dimensions])

    @property
    def _widths(self) -> list[tuple[int, ...]]:
        return [self.dimensions[at][1] for at in WIDTH_AT]

    def smallest(self) -> Arch:
        return self.decode(np.zeros(len(self.dimensions), np.int8))

    def largest(self) -> Arch:
        return self.decode((self.sizes - 1).astype(np.int8))

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        """n random codes, shape (n, D). Every position uniform, a width uniform over those not below the previous
        stage's (the authors' sampler)."""
        codes = rng.integers(0, self.sizes, size=(n, len(self.sizes))).astype(np.int8)
        lowest = np.zeros(n, np.int64)
        for at, widths, following in self._width_steps():
            span = len(widths) - lowest
            codes[:, at] = lowest + np.floor(rng.random(n) * span).astype(np.int64)
            lowest = following[codes[:, at]]
        return codes

    def mutate(self, codes: Codes, rng: np.random.Generator, p: float) -> Codes:
        """Each position redrawn with probability p; widths raised where that would make them decrease."""
        fresh = rng.integers(0, self.sizes, size=codes.shape).astype(np.int8)
        return self._repair(np.where(rng.random(codes.shape) < p, fresh, codes))

    def cross(self, a: Codes, b: Codes, rng: np.random.Generator) -> Codes:
        """Each position from either parent, shapes (n, D)."""
        return self._repair(np.where(rng.random(a.shape) < 0.5, a, b))

    def _repair(self, codes: Codes) -> Codes:
        codes = codes.copy()
        lowest = np.zeros(len(codes), np.int64)
        for at, _, following in self._width_steps():
            codes[:, at] = np.maximum(codes[:, at], lowest)
            lowest = following[codes[:, at]]
        return codes

    def _width_steps(self) -> list[tuple[int, tuple[int, ...], NDArray[np.int64]]]:
        """(position, widths, index of the lowest width the next stage may take for each of them)."""
        stages = self._widths
        following = [*stages[1:], stages[-1]]
        return [
            (at, widths, np.searchsorted(np.array(after), np.array(widths)))
            for at, widths, after in zip(WIDTH_AT, stages, following, strict=True)
        ]

    def valid(self, codes: Codes) -> NDArray[np.bool_]:
        """Which rows are members, shape (n,)."""
        inside = np.all((codes >= 0) & (codes < self.sizes), axis=1)
        safe = np.where(inside[:, None], codes, 0)
        widths = np.stack([np.array(w)[safe[:, at]] for at, w in zip(WIDTH_AT, self._widths, strict=True)], axis=1)
        return np.asarray(inside & np.all(np.diff(widths, axis=1) >= 0, axis=1))

    def checked(self, rows: Sequence[Sequence[int]] | NDArray[Any]) -> Codes:
        """Codes that were read from a file or a message, shape (n, D), after a check that every row is a member.

        Raises:
            SpaceError: a row has another length, an index that is no integer or out of range, or decreasing widths.
        """
        try:
            codes = np.asarray(rows, None if len(rows) else np.int8).reshape(len(rows), len(self.dimensions))
        except ValueError as error:
            raise SpaceError(
                f"codes of space {self.name!r} have {len(self.dimensions)} integers each: {error}"
            ) from error
        if not np.issubdtype(codes.dtype, np.integer):
            raise SpaceError(f"codes of space {self.name!r} are integers, got {codes.dtype}")
        if not (members := self.valid(codes)).all():
            row = codes[np.flatnonzero(~members)[0]].tolist()
            raise SpaceError(f"code {row} is not in space {self.name!r}")
        return codes.astype(np.int8)

    def encode(self, arch: Arch) -> Codes:
        """The code of a stage-wise member, shape (D,). Raises `SpaceError` naming the value that is outside."""
        if (arch.hidden, arch.classes) != (self.hidden, self.classes):
            raise SpaceError(
                f"the architecture's head ({arch.hidden} hidden, {arch.classes} classes) is not that of space"
                f" {self.name!r} ({self.hidden} hidden, {self.classes} classes); Space.adopt gives it this head"
            )
        values = _stagewise_values(arch)
        code = np.zeros(len(values), np.int8)
        for i, ((name, choices), value) in enumerate(zip(self.dimensions, values, strict=True)):
            if value not in choices:
                raise SpaceError(f"{name} = {value} is not in space {self.name!r}; it may be {choices}")
            code[i] = choices.index(value)
        if not self.valid(code[None])[0]:
            raise SpaceError(f"widths decrease from stage to stage, which space {self.name!r} does not have")
        return code

    def decode(self, code: Codes | Sequence[int]) -> Arch:
        """The architecture of one code, shape (D,). Raises `SpaceError` for an index that is out of range."""
        values = iter([_chosen(name, choices, at) for (name, choices), at in zip(self.dimensions, code, strict=True)])
        resolution = next(values)
        stem, conv0, conv1 = (_conv_stage(*(next(values) for _ in range(4))) for _ in range(3))
        a, b, c, d = (_vit_stage(*(next(values) for _ in range(4))) for _ in range(4))
        return Arch(resolution, stem, (conv0, conv1), (a, b, c, d), self.hidden, self.classes)

    def contains(self, arch: Arch) -> bool:
        try:
            self.encode(arch)
        except SpaceError:
            return False
        return True

    def adopt(self, arch: Arch) -> Arch:
        """The same body with this space's head."""
        return replace(arch, hidden=self.hidden, classes=self.classes)

    def count(self) -> int:
        """The number of members: products of choices, times the non-decreasing width tuples."""
        ways = np.ones(len(self._widths[0]), dtype=object)
        for before, after in zip(self._widths, self._widths[1:], strict=False):
            ways = np.array([sum(w for w, v in zip(ways, before, strict=True) if v <= width) for width in after])
        return int(sum(ways)) * prod(len(c) for i, (_, c) in enumerate(self.dimensions) if i not in WIDTH_AT)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> "Space":
        """Read what `to_json` wrote. Raises `SpaceError`."""
        try:
            data = dict(json.loads(text) if isinstance(text, str) else text)
            stem = _choices(ConvChoices, data.pop("stem"))
            a, b = (_choices(ConvChoices, stage) for stage in data.pop("conv"))
            w, x, y, z = (_choices(VitChoices, stage) for stage in data.pop("vit"))
            resolutions = tuple(data.pop("resolutions"))
            return cls(resolutions=resolutions, stem=stem, conv=(a, b), vit=(w, x, y, z), **data)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise SpaceError(f"not a space: {error}") from error


_C = TypeVar("_C", ConvChoices, VitChoices)

# Positions of the widths in a code: resolution, then four values per stage, the width first.
WIDTH_AT = tuple(range(1, 1 + 4 * 7, 4))


def _choices(cls: type[_C], data: Mapping[str, Any]) -> _C:
    return cls(**{name: tuple(values) for name, values in data.items()})


def _chosen(name: str, choices: tuple[int, ...], index: int) -> int:
    if not 0 <= index < len(choices):
        raise SpaceError(f"{name} has {len(choices)} choices, there is none with index {index}")
    return choices[index]


def _conv_stage(width: int, depth: int, kernel: int, expand: int) -> ConvStage:
    return ConvStage(width, (ConvBlock(kernel, expand),) * depth)


def _vit_stage(width: int, depth: int, v_scale: int, mlp_ratio: int) -> VitStage:
    return VitStage(width, (VitLayer(v_scale, mlp_ratio),) * depth)


def _stagewise_values(arch: Arch) -> list[int]:
    values = [arch.resolution]
    for conv in (arch.stem, *arch.conv):
        if len(set(conv.blocks)) > 1:
            raise SpaceError("a conv stage mixes kernels or ratios; a space has only one of each per stage")
        values += [conv.width, len(conv.blocks), conv.blocks[0].kernel, conv.blocks[0].expand]
    for vit in arch.vit:
        if len(set(vit.layers)) > 1:
            raise SpaceError("a transformer stage mixes V scales or MLP ratios; a space has only one of each per stage")
        values += [vit.width, len(vit.layers), vit.layers[0].v_scale, vit.layers[0].mlp_ratio]
    return values


def _steps(low: int, high: int, step: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1, step))


def paper(classes: int = PAPER_CLASSES) -> Space:
    """The space of Table 1 of the paper."""
    return Space(
        name="paper",
        resolutions=(128, 160, 176, 192, 224, 256),
        stem=ConvChoices((16, 24), (1, 2), (3, 5), (1,)),
        conv=(
            ConvChoices(_steps(16, 32, 8), _steps(2, 5, 1), (3, 5), (3, 4, 5, 6)),
            ConvChoices(_steps(16, 48, 8), _steps(2, 6, 1), (3, 5), (3, 4, 5, 6)),
        ),
        vit=(
            VitChoices(_steps(48, 96, 16), _steps(1, 5, 1), (2, 3, 4), (2, 3, 4, 5)),
            VitChoices(_steps(80, 160, 16), _steps(1, 6, 1), (2, 3, 4), (2, 3, 4, 5)),
            VitChoices(_steps(144, 288, 16), _steps(1, 6, 1), (2, 3, 4), (2, 3, 4, 5)),
            VitChoices(_steps(160, 320, 16), _steps(1, 6, 1), (2, 3, 4), (2, 3, 4, 5)),
        ),
        classes=classes,
    )


def small(classes: int = 10) -> Space:
    """The paper's structure and dimensions with smaller values, for 64-pixel images.

    The widest stages end at 128 and 144 so that the largest network stays below 5.9 M parameters at 200 classes.
    """
    return Space(
        name="small",
        resolutions=(32, 48, 64),
        stem=ConvChoices((8, 16), (1, 2), (3, 5), (1,)),
        conv=(
            ConvChoices((8, 16, 24), (2, 3, 4), (3, 5), (3, 4, 5, 6)),
            ConvChoices((16, 24, 32), (2, 3, 4), (3, 5), (3, 4, 5, 6)),
        ),
        vit=(
            VitChoices((32, 48, 64), (1, 2, 3), (2, 3, 4), (2, 3, 4, 5)),
            VitChoices((48, 64, 80, 96), (1, 2, 3, 4), (2, 3, 4), (2, 3, 4, 5)),
            VitChoices(_steps(80, 128, 16), (1, 2, 3, 4), (2, 3, 4), (2, 3, 4, 5)),
            VitChoices(_steps(96, 144, 16), (1, 2, 3), (2, 3, 4), (2, 3, 4, 5)),
        ),
        hidden=512,
        classes=classes,
    )


PRESETS = {"paper": paper, "small": small}

"""Accuracy tables: the evaluated sub-networks of a supernet in a file of JSON lines. No torch.

The first line is the header: the format, the space, and the numbers of images. Every other line is a sub-network: its
code; `top1`, on the images of `search`, by which networks are chosen; and `val`, on images that chose nothing, which is
what is reported of it. Tables of earlier versions, and some lines of others, have no `val`; readers of earlier versions
ignore it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes, Space
from elasticvit.errors import PredictorError, SpaceError
from elasticvit.json_lines import complete_lines, open_to_append

Values = NDArray[np.float64]
FORMAT = 1
FEWEST_SUBNETS = 8
VAL_IMAGES, VAL_INDEPENDENT = "val_images", "val_independent"
"""Fields of the header."""


@dataclass(frozen=True)
class AccuracyTable:
    """Sub-networks of one supernet evaluated on the same images.

    Attributes:
        codes: shape (n, D).
        top1: fractions (0 to 1) of the images of `search` classified correctly, shape (n,); images: their number.
        val: the same of images that chose nothing, shape (n,), NaN where it was not measured; val_images: their number,
            0 without any; val_independent: whether they are known to have trained and chosen nothing.
    """

    space: Space
    codes: Codes = field(repr=False)
    top1: Values = field(repr=False)
    images: int
    val: Values = field(repr=False, default_factory=lambda: np.empty(0))
    val_images: int = 0
    val_independent: bool | None = None

    def __post_init__(self) -> None:
        if not self.val_images:
            object.__setattr__(self, "val", np.full(len(self.top1), np.nan))
        shape = (len(self.top1), len(self.space.dimensions))
        if self.codes.shape != shape or self.val.shape != self.top1.shape:
            raise PredictorError(f"codes have shape {self.codes.shape}, expected {shape}")
        fractions = np.concatenate([self.top1, self.val[~np.isnan(self.val)]])
        if not bool(np.all((fractions >= 0) & (fractions <= 1))):
            raise PredictorError("accuracies must be fractions, 0 to 1")
        if self.images < 1 or self.val_images < 0:
            raise PredictorError("an accuracy table needs a number of images above 0")

    def reported(self, code: Codes) -> Accuracy | None:
        """The accuracy of a code (D,) on images that chose nothing; None where it was not measured."""
        row = self._row(code)
        if row is None or np.isnan(self.val[row]):
            return None
        return Accuracy.measured(float(self.val[row]), self.val_images, self.val_independent)

    def chosen_by(self, code: Codes) -> Accuracy | None:
        """The accuracy of a code (D,) on the images that choose networks; None where it was not measured."""
        row = self._row(code)
        return None if row is None else Accuracy.measured(float(self.top1[row]), self.images, independent=False)

    def _row(self, code: Codes) -> int | None:
        """The last row of a code: it counts where a code was measured again."""
        rows = np.flatnonzero((self.codes == code).all(axis=1))
        return int(rows[-1]) if len(rows) else None

    @classmethod
    def load(cls, path: Path, expected: Space | None = None) -> "AccuracyTable":
        """Read an accuracy table. An incomplete last line is ignored; of a repeated code the last line counts.

        Args:
            expected: the space of the supernet that the table is of.

        Raises:
            PredictorError: no file, another format, a code that is not in its space, or not of the expected space.
        """
        try:
            head, *lines = complete_lines(path) or [""]
            header = json.loads(head)
            if header["format"] != FORMAT:
                raise PredictorError(f"{path} has format {header['format']}, not {FORMAT}: evaluate the supernet again")
            space = Space.from_json(header["space"])
            if expected is not None and space != expected:
                raise PredictorError(f"{path} is of another space than the supernet: evaluate the supernet again")
            by_code = {tuple(entry["code"]): entry for entry in map(json.loads, lines)}
            top1 = np.array([float(entry["top1"]) for entry in by_code.values()], np.float64)
            val = np.array([_fraction(entry.get("val")) for entry in by_code.values()], np.float64)
            val_images, independent = int(header.get(VAL_IMAGES, 0)), header.get(VAL_INDEPENDENT)
            codes, images = space.checked(list(by_code)), int(header["images"])
            return cls(space, codes, top1, images, val, val_images, None if independent is None else bool(independent))
        except OSError as error:
            raise PredictorError(f"no accuracy table at {path}: evaluate the supernet's sub-networks first") from error
        except (SpaceError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise PredictorError(f"{path} is not an accuracy table: {error!r}; remove it and evaluate again") from error


def _fraction(value: float | None) -> float:
    return math.nan if value is None else float(value)


@dataclass(frozen=True, slots=True)
class OnVal:
    """Accuracies on images that chose nothing: fractions (0 to 1), the number of images, and `Accuracy.independent`."""

    top1: Sequence[float]
    images: int
    independent: bool | None


def append(
    path: Path,
    space: Space,
    images: int,
    codes: Codes,
    top1: Sequence[float] | Values,
    fields: Mapping[str, str] = MappingProxyType({}),
    val: OnVal | None = None,
) -> None:
    """Append evaluations, codes (n, D) and top1 (n,) on the images that choose, to an accuracy table, which is created
    if needed; synced to disk.

    `fields` are further fields of its header, which `AccuracyTable.load` ignores; `val` are accuracies of the same
    codes on other images.

    A crash leaves at most an incomplete line, which the next `append` removes and `AccuracyTable.load` ignores.

    Raises:
        PredictorError: the file is of another space or of other images, has other `fields`, or cannot be written.
    """
    values: dict[str, Any] = {"format": FORMAT, "images": images, "space": json.loads(space.to_json()), **fields}
    if val is not None:
        values |= {VAL_IMAGES: val.images, VAL_INDEPENDENT: val.independent}
    entries: list[dict[str, Any]] = [
        {"code": code.tolist(), "top1": float(value)} for code, value in zip(codes, top1, strict=True)
    ]
    if val is not None:
        entries = [entry | {"val": value} for entry, value in zip(entries, val.top1, strict=True)]
    try:
        _append(path, json.dumps(values, sort_keys=True), [json.dumps(entry) for entry in entries])
    except OSError as error:
        raise PredictorError(f"cannot write the accuracy table {path}: {error.strerror}") from error


def _append(path: Path, header: str, entries: Sequence[str]) -> None:
    with open_to_append(path) as file:
        file.seek(0)
        found = file.readline().decode().rstrip("\n")
        if found and found != header:
            raise PredictorError(f"{path} holds accuracies of another space or on other images; remove it first")
        lines = [*([] if found else [header]), *entries]
        file.write(("\n".join(lines) + "\n").encode() if lines else b"")

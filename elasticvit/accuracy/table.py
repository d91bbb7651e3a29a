"""Accuracy tables: the evaluated sub-networks of a supernet in a file of JSON lines. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes, Space
from elasticvit.errors import PredictorError, SpaceError
from elasticvit.json_lines import complete_lines, open_to_append

Values = NDArray[np.float64]
FORMAT = 1
FEWEST_SUBNETS = 8


@dataclass(frozen=True)
class AccuracyTable:
    """Sub-networks of one supernet evaluated on the same images.

    Attributes:
        codes: shape (n, D). top1: fractions (0 to 1) of images classified correctly, shape (n,). images: their number.
    """

    space: Space
    codes: Codes = field(repr=False)
    top1: Values = field(repr=False)
    images: int

    def __post_init__(self) -> None:
        shape = (len(self.top1), len(self.space.dimensions))
        if self.codes.shape != shape:
            raise PredictorError(f"codes have shape {self.codes.shape}, expected {shape}")
        if not bool(np.all((self.top1 >= 0) & (self.top1 <= 1))):
            raise PredictorError("accuracies must be fractions, 0 to 1")
        if self.images < 1:
            raise PredictorError("an accuracy table needs a number of images above 0")

    def accuracy_of(self, code: Codes) -> Accuracy | None:
        """The measured accuracy of a code (D,), the last one where it was measured again; None where it was not."""
        rows = np.flatnonzero((self.codes == code).all(axis=1))
        return Accuracy(float(self.top1[rows[-1]]), images=self.images) if len(rows) else None

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
            entries = [json.loads(line) for line in lines]
            top1_by_code = {tuple(entry["code"]): float(entry["top1"]) for entry in entries}
            top1 = np.array(list(top1_by_code.values()), np.float64)
            return cls(space, space.checked(list(top1_by_code)), top1, int(header["images"]))
        except OSError as error:
            raise PredictorError(f"no accuracy table at {path}: evaluate the supernet's sub-networks first") from error
        except (SpaceError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise PredictorError(f"{path} is not an accuracy table: {error!r}; remove it and evaluate again") from error


def append(
    path: Path,
    space: Space,
    images: int,
    codes: Codes,
    top1: Sequence[float] | Values,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Append evaluations, codes (n, D) and top1 (n,), to an accuracy table, which is created if needed; synced to disk.

    `fields` are further fields of its header, which `AccuracyTable.load` ignores.

    A crash leaves at most an incomplete line, which the next `append` removes and `AccuracyTable.load` ignores.

    Raises:
        PredictorError: the file is of another space or number of images, has other `fields`, or cannot be written.
    """
    try:
        _append(path, space, images, codes, top1, fields)
    except OSError as error:
        raise PredictorError(f"cannot write the accuracy table {path}: {error.strerror}") from error


def _append(
    path: Path, space: Space, images: int, codes: Codes, top1: Sequence[float] | Values, fields: Mapping[str, str]
) -> None:
    values = {"format": FORMAT, "images": images, "space": json.loads(space.to_json()), **fields}
    header = json.dumps(values, sort_keys=True)
    with open_to_append(path) as file:
        file.seek(0)
        found = file.readline().decode().rstrip("\n")
        if found and found != header:
            raise PredictorError(f"{path} holds accuracies of another space or on other images; remove it first")
        lines = [] if found else [header]
        lines += [
            json.dumps({"code": code.tolist(), "top1": float(value)}) for code, value in zip(codes, top1, strict=True)
        ]
        file.write(("\n".join(lines) + "\n").encode() if lines else b"")

"""The table of evaluated sub-networks of a supernet: a file of JSON lines. No torch here."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Codes, Space
from elasticvit.errors import PredictorError, SpaceError

Values = NDArray[np.float64]
FORMAT = 1
FEWEST_SUBNETS = 8


@dataclass(frozen=True)
class AccuracyTable:
    """Sub-networks of one supernet evaluated on the same images.

    Attributes:
        codes: shape (n, D). top1: part of the images classified rightly, shape (n,). images: how many there were.
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
            raise PredictorError("accuracies must be parts of one, 0 to 1")
        if self.images < 1:
            raise PredictorError("an accuracy needs images to be measured on")

    def accuracy_of(self, code: Codes) -> Accuracy | None:
        """The measured accuracy of a code (D,), the last one where it was measured again; None where it was not."""
        rows = np.flatnonzero((self.codes == code).all(axis=1))
        return Accuracy(float(self.top1[rows[-1]]), images=self.images) if len(rows) else None

    @classmethod
    def load(cls, path: Path) -> "AccuracyTable":
        """Read a table's file. A last line that was cut off is left out; of a repeated code the last line counts.
        Raises `PredictorError`."""
        try:
            head, *lines = path.read_text("utf-8").split("\n")
            header = json.loads(head)
            if header["format"] != FORMAT:
                raise PredictorError(f"{path} has format {header['format']}, not {FORMAT}: evaluate the supernet again")
            space = Space.from_json(header["space"])
            # What follows the last line break was cut off while it was written.
            entries = [json.loads(line) for line in lines[:-1]]
            found = {tuple(entry["code"]): float(entry["top1"]) for entry in entries}
            top1 = np.array(list(found.values()), np.float64)
            return cls(space, space.checked(list(found)), top1, int(header["images"]))
        except OSError as error:
            raise PredictorError(f"no accuracy table at {path}: evaluate the supernet's sub-networks first") from error
        except (SpaceError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise PredictorError(f"{path} is not an accuracy table: {error!r}; remove it and evaluate again") from error


def table_path(supernet: Path) -> Path:
    """The file with the evaluated sub-networks of a supernet file: `NAME.accuracy.jsonl` beside `NAME.safetensors`."""
    return supernet.with_suffix(".accuracy.jsonl")


def append(path: Path, space: Space, images: int, codes: Codes, top1: Sequence[float] | Values) -> None:
    """Add evaluations, codes (n, D) and top1 (n,), to a table's file, which is made if it is not there; synced to disk.

    A crash leaves at most a cut line, which the next `append` cuts off and `AccuracyTable.load` leaves out.

    Raises:
        PredictorError: the file is of another space or number of images.
    """
    header = json.dumps({"format": FORMAT, "images": images, "space": json.loads(space.to_json())}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        there = file.read()
        whole = there[: there.rfind(b"\n") + 1]
        if whole and whole.split(b"\n", 1)[0].decode() != header:
            raise PredictorError(f"{path} holds accuracies of another space or on other images; remove it first")
        file.truncate(len(whole))
        lines = [] if whole else [header]
        lines += [
            json.dumps({"code": code.tolist(), "top1": float(value)}) for code, value in zip(codes, top1, strict=True)
        ]
        file.write(("\n".join(lines) + "\n").encode() if lines else b"")
        file.flush()
        os.fsync(file.fileno())

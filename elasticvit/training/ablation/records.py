"""The results of all runs, one line of JSON for each, so that a killed process resumes and plots need no training."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elasticvit.errors import DataError
from elasticvit.json_lines import complete_lines, open_to_append
from elasticvit.training.ablation.plan import Config

Code = tuple[int, ...]
DIGITS = 5


@dataclass(frozen=True)
class Conditions:
    """Where and when results were made."""

    plan: str
    began: str
    device: str
    threads: int
    torch: str


@dataclass(frozen=True)
class TeacherTrained:
    """The external teacher, the largest network of the space trained alone: top-1 on `search` and `val`."""

    mflops: float
    steps: int
    search: float
    val: float
    seconds: float


@dataclass(frozen=True)
class FloorsFound:
    """The hierarchical smallest sub-networks: (key, code), the space's smallest first."""

    floors: tuple[tuple[float, Code], ...]
    seconds: float


@dataclass(frozen=True)
class Level:
    """A level of one supernet: its candidates, their top-1 on `search`, which is best, and its top-1 on `val`."""

    target: float
    candidates: tuple[Code, ...]
    search: tuple[float, ...]
    best: int
    val: float

    @property
    def mean(self) -> float:
        """Top-1 on `search`, averaged over the candidates."""
        return sum(self.search) / len(self.search)


@dataclass(frozen=True)
class Similarity:
    """Mean cosine of the gradients of a level's pairs: of all candidates, and of the good ones."""

    target: float
    random: float
    good: float


@dataclass(frozen=True)
class Pairs:
    """Sub-networks of all levels: their costs, and the cosines of (0, 1), (0, 2), … (1, 2), …"""

    mflops: tuple[float, ...]
    cosines: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """A level of one supernet on the way: top-1 on `search` of the candidates of `Level`, and of the best on `val`."""

    target: float
    search: tuple[float, ...]
    val: float

    @property
    def mean(self) -> float:
        """Top-1 on `search`, averaged over the candidates."""
        return sum(self.search) / len(self.search)


@dataclass(frozen=True)
class Milestone:
    """One supernet after some of its steps.

    Attributes:
        macs: multiply-accumulates of its training so far, the teacher's included; a backward pass counts as two forward
            ones.
        seconds, core_seconds: of its training so far, over all sessions; core seconds are CPU time of all threads.
        evaluation_s: how long this measurement took.
        smallest, largest: top-1 on `val` of both ends of the space.
    """

    steps: int
    macs: int
    seconds: float
    core_seconds: float
    evaluation_s: float
    levels: tuple[Point, ...]
    smallest: float
    largest: float


@dataclass(frozen=True)
class SupernetRun:
    """One supernet: a configuration and a seed."""

    config: Config
    seed: int
    levels: tuple[Level, ...]
    smallest: float
    largest: float
    """Top-1 on `val` of both ends of the space."""
    similarities: tuple[Similarity, ...]
    pairs: Pairs
    seconds: float
    curve: tuple[Milestone, ...] = ()
    """Measurements on the way and at the end, where the plan has them."""
    device: str | None = None
    """Where it was trained last, where that may differ from run to run."""


@dataclass(frozen=True)
class Scratch:
    """A supernet's best sub-network of a level, trained alone for `steps` steps: top-1 on `val`."""

    seed: int
    target: float
    steps: int
    val: float
    inherited: float
    seconds: float


@dataclass
class Results:
    """All that is known so far."""

    conditions: Conditions
    floors: FloorsFound | None = None
    supernet_runs: list[SupernetRun] = field(default_factory=list)
    scratch: list[Scratch] = field(default_factory=list)
    teacher: TeacherTrained | None = None

    def supernet_run(self, config: Config, seed: int) -> SupernetRun | None:
        return next((t for t in self.supernet_runs if (t.config, t.seed) == (config, seed)), None)

    def of(self, config: Config) -> list[SupernetRun]:
        """Runs of a configuration by seed."""
        return sorted((t for t in self.supernet_runs if t.config == config), key=lambda t: t.seed)

    def add(self, record: "Record") -> None:
        match record:
            case TeacherTrained():
                self.teacher = record
            case FloorsFound():
                self.floors = record
            case SupernetRun():
                self.supernet_runs.append(record)
            case Scratch():
                self.scratch.append(record)


Record = TeacherTrained | FloorsFound | SupernetRun | Scratch
KINDS: dict[str, type[Record | Conditions]] = {
    "conditions": Conditions,
    "teacher": TeacherTrained,
    "floors": FloorsFound,
    "trial": SupernetRun,  # the name that result files have
    "scratch": Scratch,
}
NESTED: dict[str, type[Level | Similarity]] = {"levels": Level, "similarities": Similarity}
LEFT_OUT: tuple[object, ...] = ((), None)
"""Values of fields that are not written, since reading gives them by default."""


def append(path: Path, record: Record | Conditions) -> None:
    """Add a line to the file of results, whole or (if the process dies meanwhile) one that `load` drops.

    Several processes may append to one file.

    Raises:
        DataError: the disk refuses.
    """
    kind = next(name for name, cls in KINDS.items() if isinstance(record, cls))
    append_line(path, {"kind": kind} | {k: v for k, v in asdict(record).items() if v not in LEFT_OUT})


def encode_line(fields: Mapping[str, Any]) -> bytes:
    """An object as one line of JSON, with its line break; floats are rounded to `DIGITS`."""
    return json.dumps(_rounded(fields), separators=(",", ":")).encode() + b"\n"


def append_line(path: Path, fields: Mapping[str, Any]) -> None:
    """Add an object as one line of JSON, synced to the disk. Raises `DataError` where the disk refuses."""
    line = encode_line(fields)
    try:
        with open_to_append(path) as file:
            file.write(line)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; make room and start the same command again") from error


def read_lines(path: Path) -> list[Any]:
    """The objects that `append_line` wrote; torn lines are left out, and a missing file has none."""
    rows = []
    for line in complete_lines(path) if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # torn when an earlier version was killed; what it described is done again
    return rows


def load(path: Path) -> Results | None:
    """What `append` wrote; None where there is no file. Raises `DataError` for a file of something else."""
    if not path.is_file():
        return None
    results: Results | None = None
    for data in read_lines(path):
        try:
            record = _read(data)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} holds a line that is no result: {error!r}; take another --out") from error
        if isinstance(record, Conditions):
            results = results or Results(record)
        elif results is not None:
            results.add(record)
    if results is None:
        raise DataError(f"{path} does not say how its results were made; take another --out")
    return results


def _read(data: Mapping[str, Any]) -> Record | Conditions:
    values = {name: _tuples(value) for name, value in data.items() if name != "kind"}
    for name, cls in NESTED.items():
        if name in values:
            values[name] = tuple(cls(**{k: _tuples(v) for k, v in row.items()}) for row in data[name])
    if "pairs" in values:
        values["pairs"] = Pairs(**{k: _tuples(v) for k, v in data["pairs"].items()})
    if "curve" in values:
        values["curve"] = tuple(map(read_milestone, data["curve"]))
    return KINDS[data["kind"]](**values)


def read_milestone(data: Mapping[str, Any]) -> Milestone:
    """A milestone from JSON. Raises `KeyError` or `TypeError` for something else."""
    levels = tuple(Point(**{k: _tuples(v) for k, v in row.items()}) for row in data["levels"])
    return Milestone(**{**data, "levels": levels})


def _tuples(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value

"""Tables of distinct architectures for every level of cost, on disk: what the authors draw from while they train.

A level is three files: `level-100.codes.npy` (int8, a code a row), `level-100.costs.npy` (float32, MFLOPs by the
paper's formula) and `level-100.json`, the header, which is written last: a level without it does not count. So building
can be stopped anywhere, goes on where it was, and comes to the same files.
"""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Codes, Space
from elasticvit.atomic import write_files
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.levels import PAPER_FLOORS, PAPER_LEVELS, Floors, floor_by_key
from elasticvit.errors import ElasticVitError

FORMAT = "elasticvit-table/1"
PER_LEVEL, BAND = 150_000, 30.0
LEAST, ROUND = 1024, 65_536

Report = Callable[[float, int, int], None]


class TableError(ElasticVitError):
    """Tables cannot be built, or are damaged, or are for other levels."""


def unreported(_level: float, _done: int, _total: int) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a level's table, to draw from with replacement."""

    codes: Codes
    at: NDArray[np.int64]

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        """n codes, shape (n, D)."""
        return np.asarray(self.codes[self.at[rng.integers(len(self.at), size=n)]], np.int8)


@dataclass(frozen=True)
class Table:
    """One level: codes (n, D) and their costs (n,) in MFLOPs, memory-mapped, read only; and the header."""

    header: dict[str, Any]
    codes: Codes
    costs: NDArray[np.float32]


@dataclass(frozen=True)
class Tables:
    """The levels of a folder by target."""

    folder: Path
    levels: dict[float, Table]

    def summary(self) -> dict[str, object]:
        """What is there, for JSON."""
        levels = []
        for target, table in self.levels.items():
            floor = table.header["floor"] and Arch.from_json(table.header["floor"]).id
            levels.append({"level": target, "networks": len(table.codes), "floor": floor})
        return {"folder": str(self.folder), "levels": levels}

    def rows(self, costs: CostTable, low: float, high: float, floor: Arch | None) -> Rows:
        """The networks of the level `low` that cost at most `high`, MFLOPs.

        Args:
            costs: the paper's formula; what is stored is rounded, and a bound is a bound.

        Raises:
            TableError: the folder has no such level, or it was built for another space, floor or a narrower band.
        """
        table = self.levels.get(low)
        if table is None:
            raise TableError(f"{self.folder} has no level {low:g}; it has {', '.join(f'{k:g}' for k in self.levels)}")
        wanted = _floor_json(costs.space, floor)
        if (table.header["space"], table.header["floor"]) != (json.loads(costs.space.to_json()), wanted):
            raise TableError(f"level {low:g} of {self.folder} was built for another space or floor; build it anew")
        if low + table.header["band"] < high:
            raise TableError(f"level {low:g} of {self.folder} ends at {low + table.header['band']:g}, before {high:g}")
        at = np.flatnonzero(costs.total(table.codes) / 1e6 <= high)
        if not len(at):
            raise TableError(f"level {low:g} of {self.folder} has no networks up to {high:g} MFLOPs")
        return Rows(table.codes, at)


def build_tables(
    space: Space,
    folder: Path,
    levels: Sequence[float] = PAPER_LEVELS,
    *,
    floors: Floors = PAPER_FLOORS,
    per_level: int = PER_LEVEL,
    band: float = BAND,
    seed: int = 0,
    report: Report = unreported,
) -> Tables:
    """Fill a folder with `per_level` distinct networks of each level, in [level, level + band] MFLOPs by the paper's
    formula and not below the level's floor (the authors' rule). Levels that are there, whole and made by the same
    settings are kept.

    The band is the 30 MFLOPs of the authors' builder; their training, and ours, then takes those of the first 20.

    Raises:
        TableError: the disk refuses (finished levels are kept), or a level has too few networks.
        SpaceError: a level is empty, or a floor not in the space.
    """
    costs = CostTable.of_paper_flops(space)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in levels:
            floor = floor_by_key(floors, target) if floors else None
            header = _header(space, target, band, floor, per_level, seed)
            if _kept(folder, header):
                report(target, per_level, per_level)
                continue
            drawn = BandSampler(space, costs, floor, low=target, high=target + band, unit=1e6)
            rng = np.random.default_rng((seed, round(target * 1000)))
            codes = _distinct(drawn, rng, per_level, report)
            _write(folder, header, codes, (costs.total(codes) / 1e6).astype(np.float32))
    except OSError as error:
        raise TableError(
            f"cannot write {folder}: {error}; finished levels are kept, so make room and run this again"
        ) from error
    return load_tables(folder)


def load_tables(folder: Path) -> Tables:
    """The tables of a folder, memory-mapped. Raises `TableError` where there are none or one is damaged."""
    found = {}
    for path in sorted(folder.glob("level-*.json")):
        try:
            header = json.loads(path.read_text("utf-8"))
            table = _open(folder, header)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TableError(f"{path} is damaged: {error}; delete it and build the tables again") from error
        found[float(header["level"])] = table
    if not found:
        raise TableError(f"{folder} holds no tables; build them with `elasticvit tables --out {folder}`")
    return Tables(folder, dict(sorted(found.items())))


def _distinct(band: BandSampler, rng: np.random.Generator, n: int, report: Report) -> Codes:
    """The first n different codes that the band draws, shape (n, D)."""
    codes = np.empty((0, len(band.space.dimensions)), np.int8)
    while len(codes) < n:
        fresh = band.sample(rng, min(max(n - len(codes), LEAST), ROUND))
        codes, before = _first_of_each(np.concatenate([codes, fresh])), len(codes)
        report(band.low, min(len(codes), n), n)
        if len(codes) < n and 1000 * (len(codes) - before) < len(fresh):
            raise TableError(
                f"level {band.low:g} has hardly more than {len(codes):,} different networks, {n:,} were asked for; ask"
                " for fewer, a wider band or a lower floor"
            )
    return codes[:n]


def _first_of_each(codes: Codes) -> Codes:
    """Without repetitions, in the order of first appearance."""
    rows = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1]))).ravel()
    return codes[np.sort(np.unique(rows, return_index=True)[1])]


def _header(space: Space, target: float, band: float, floor: Arch | None, n: int, seed: int) -> dict[str, Any]:
    made_by = {"format": FORMAT, "cost": "paper_mflops", "space": json.loads(space.to_json())}
    return made_by | {"level": target, "band": band, "floor": _floor_json(space, floor), "n": n, "seed": seed}


def _floor_json(space: Space, floor: Arch | None) -> Any:  # noqa: ANN401
    return None if floor is None else json.loads(space.adopt(floor).to_json())


def _paths(folder: Path, target: float) -> tuple[Path, Path, Path]:
    codes, costs, header = (folder / f"level-{target:g}.{kind}" for kind in ("codes.npy", "costs.npy", "json"))
    return codes, costs, header


def _kept(folder: Path, header: dict[str, Any]) -> bool:
    """Whether a level is there, whole and made by the same settings."""
    path = _paths(folder, header["level"])[2]
    try:
        found = json.loads(path.read_text("utf-8"))
        _open(folder, found)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool({k: v for k, v in found.items() if k != "sha256"} == header)


def _open(folder: Path, header: dict[str, Any]) -> Table:
    """Raises ValueError, OSError or KeyError for what is not whole."""
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
    paths = _paths(folder, header["level"])[:2]
    for path, wanted in zip(paths, header["sha256"], strict=True):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                raise ValueError(f"{path.name} is not what was written")
    codes, costs = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
    return Table(header, codes, costs)


def _write(folder: Path, header: dict[str, Any], codes: Codes, costs: NDArray[np.float32]) -> None:
    """A level's files. A header tells by its digests arrays that are not its own, should the process die between."""
    arrays = [_npy(codes), _npy(costs)]
    digests = [hashlib.sha256(data).hexdigest() for data in arrays]
    head = json.dumps(header | {"sha256": digests}, indent=1).encode()
    write_files(dict(zip(_paths(folder, header["level"]), (*arrays, head), strict=True)), single_writer=True)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()

"""Level tables: distinct architectures of every level of cost on disk, from which the authors' training samples.

A level is three files: `level-100.codes.npy` (int8, a code in each row), `level-100.costs.npy` (float32, MFLOPs by the
paper's formula) and `level-100.json`, the header, which is written last: a level without a header is ignored. So
building can be interrupted at any time, continues where it stopped, and ends with the same files.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
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
from elasticvit.errors import ElasticVitError, SpaceError
from elasticvit.hashing import file_sha256
from elasticvit.progress import Report, Step, silent

FORMAT = "elasticvit-table/1"
PER_LEVEL, BAND = 150_000, 30.0
MIN_DRAWS, MAX_DRAWS = 1024, 65_536


class LevelTableError(ElasticVitError):
    """Level tables cannot be built, are damaged, or were built for other levels."""


@dataclass(frozen=True)
class Rows:
    """Rows of a level table, to sample from with replacement."""

    codes: Codes
    rows: NDArray[np.int64]

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        """n codes, shape (n, D)."""
        return np.asarray(self.codes[self.rows[rng.integers(len(self.rows), size=n)]], np.int8)


@dataclass(frozen=True)
class LevelTable:
    """One level: codes (n, D) and their costs (n,) in MFLOPs, memory-mapped and read-only, and the header."""

    header: dict[str, Any]
    codes: Codes
    costs: NDArray[np.float32]


@dataclass(frozen=True)
class LevelTables:
    """The level tables of a folder, by target."""

    folder: Path
    levels: dict[float, LevelTable]

    def summary(self) -> dict[str, object]:
        """Levels, their numbers of networks and their floors, for JSON."""
        levels = []
        for target, table in self.levels.items():
            floor = table.header["floor"] and Arch.from_json(table.header["floor"]).id
            levels.append({"level": target, "networks": len(table.codes), "floor": floor})
        return {"folder": str(self.folder), "levels": levels}

    def rows(self, costs: CostTable, low: float, high: float, floor: Arch | None) -> Rows:
        """The networks of the level `low` that cost at most `high`, MFLOPs.

        Args:
            costs: the paper's formula, for exact costs: the stored ones are rounded.

        Raises:
            LevelTableError: the folder has no such level, or it was built for another space, floor or a narrower band.
        """
        table = self.levels.get(low)
        if table is None:
            raise LevelTableError(
                f"{self.folder} has no level {low:g}; it has {', '.join(f'{k:g}' for k in self.levels)}"
            )
        expected = json.loads(costs.space.to_json()), _floor_json(costs.space, floor)
        if (table.header["space"], table.header["floor"]) != expected:
            raise LevelTableError(
                f"level {low:g} of {self.folder} was built for another space or floor; build it again"
            )
        if low + table.header["band"] < high:
            raise LevelTableError(
                f"level {low:g} of {self.folder} ends at {low + table.header['band']:g}, before {high:g}"
            )
        rows = np.flatnonzero(costs.total(table.codes) / 1e6 <= high)
        if not len(rows):
            raise LevelTableError(f"level {low:g} of {self.folder} has no networks up to {high:g} MFLOPs")
        return Rows(table.codes, rows)


def build_level_tables(
    space: Space,
    folder: Path,
    levels: Sequence[float] = PAPER_LEVELS,
    *,
    floors: Floors = PAPER_FLOORS,
    per_level: int = PER_LEVEL,
    band: float = BAND,
    seed: int = 0,
    report: Report = silent,
) -> LevelTables:
    """Fill a folder with `per_level` distinct networks of each level, in [level, level + band] MFLOPs by the paper's
    formula and not below the level's floor (the authors' rule). Complete levels of the same settings are kept.

    The band is the 30 MFLOPs of the authors' builder; training then uses those of the first 20.

    Raises:
        LevelTableError: a file cannot be written (finished levels are kept), or a level has too few networks.
        SpaceError: a level is empty, or a floor not in the space.
    """
    if strange := [level for level in levels if not 0 < level < inf]:
        raise LevelTableError(f"a level is a number of MFLOPs above 0, not {strange[0]:g}")
    if folder.exists() and not folder.is_dir():
        raise LevelTableError(f"{folder} is a file; give a folder for the level tables")
    costs = CostTable.of_paper_flops(space)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in levels:
            floor = floor_by_key(floors, target) if floors else None
            header = _header(space, target, band, floor, per_level, seed)
            if _kept(folder, header):
                report(Step(_phase(target), per_level, per_level))
                continue
            drawn = BandSampler(space, costs, floor, low=target, high=target + band, unit=1e6)
            rng = np.random.default_rng((seed, round(target * 1000)))
            codes = _distinct(drawn, rng, per_level, report)
            _write(folder, header, codes, (costs.total(codes) / 1e6).astype(np.float32))
    except OSError as error:
        raise LevelTableError(
            f"cannot write {folder}: {error}; finished levels are kept, so free some space and run this again"
        ) from error
    return load_level_tables(folder)


def load_level_tables(folder: Path) -> LevelTables:
    """The level tables of a folder, memory-mapped. Raises `LevelTableError` if there are none or one is damaged."""
    levels = {}
    for path in sorted(folder.glob("level-*.json")):
        try:
            header = json.loads(path.read_text("utf-8"))
            table = _open(folder, header)
        except (SpaceError, OSError, ValueError, KeyError, TypeError) as error:
            raise LevelTableError(f"{path} is damaged: {error}; delete it and build the level tables again") from error
        levels[float(header["level"])] = table
    if not levels:
        raise LevelTableError(f"{folder} holds no level tables; build them with `elasticvit tables --out {folder}`")
    return LevelTables(folder, dict(sorted(levels.items())))


def _phase(level: float) -> str:
    return f"{level:g} MFLOPs"


def _distinct(sampler: BandSampler, rng: np.random.Generator, n: int, report: Report) -> Codes:
    """The first n different codes that the sampler draws, shape (n, D)."""
    codes = np.empty((0, len(sampler.space.dimensions)), np.int8)
    while len(codes) < n:
        fresh = sampler.sample(rng, min(max(n - len(codes), MIN_DRAWS), MAX_DRAWS))
        codes, before = _without_repetitions(np.concatenate([codes, fresh])), len(codes)
        report(Step(_phase(sampler.low), min(len(codes), n), n))
        if len(codes) < n and 1000 * (len(codes) - before) < len(fresh):
            raise LevelTableError(
                f"level {sampler.low:g} has hardly more than {len(codes):,} different networks, fewer than the {n:,} to"
                " build; build fewer, or choose a wider band or a lower floor"
            )
    return codes[:n]


def _without_repetitions(codes: Codes) -> Codes:
    """Every code once, in the order of first appearance."""
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
    """Whether a level is complete and of the same settings."""
    path = _paths(folder, header["level"])[2]
    try:
        stored = json.loads(path.read_text("utf-8"))
        _open(folder, stored)
    except (SpaceError, OSError, ValueError, KeyError, TypeError):
        return False
    return bool({k: v for k, v in stored.items() if k != "sha256"} == header)


def _open(folder: Path, header: dict[str, Any]) -> LevelTable:
    """Raises ValueError, OSError, KeyError or SpaceError for files that are damaged."""
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
    paths = _paths(folder, header["level"])[:2]
    for path, sha256 in zip(paths, header["sha256"], strict=True):
        if file_sha256(path) != sha256:
            raise ValueError(f"{path.name} differs from what was written")
    codes, costs = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
    space = Space.from_json(header["space"])
    if (codes.dtype, costs.shape) != (np.int8, (len(codes),)):
        raise ValueError(f"it holds {codes.dtype} codes of shape {codes.shape} and costs of shape {costs.shape}")
    space.checked(codes)
    return LevelTable(header, codes, costs)


def _write(folder: Path, header: dict[str, Any], codes: Codes, costs: NDArray[np.float32]) -> None:
    """A level's files. The header holds the arrays' digests, which reveal a mismatch if the process dies in between."""
    arrays = [_npy(codes), _npy(costs)]
    digests = [hashlib.sha256(data).hexdigest() for data in arrays]
    head = json.dumps(header | {"sha256": digests}, indent=1).encode()
    write_files(dict(zip(_paths(folder, header["level"]), (*arrays, head), strict=True)), single_writer=True)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()

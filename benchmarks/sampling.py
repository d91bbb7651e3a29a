"""Costs of many architectures, and sampling within a band: vectorised against scalar, and against the authors' code.

The authors' code is measured if ELASTICVIT_OFFICIAL names a checkout of it; the two are then timed in turns.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from elasticvit.archs.space import Codes, Space, paper
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.blocks import blocks
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import macs, paper_mflops
from elasticvit.costs.level_tables import PER_LEVEL, build_level_tables
from elasticvit.costs.levels import PAPER_BAND, PAPER_FLOORS, PAPER_LEVELS, floor_by_key

if TYPE_CHECKING:
    from torch import nn

WALKED, TABLED, DRAWN, ROUNDS = 300, 200_000, 50_000, 5
OFFICIAL_LEVELS, OFFICIAL_TURNS, TURN_S = (200.0, 400.0), 5, 2.0


def figures() -> dict[str, object]:
    """Architectures costed a second, architectures drawn a second in every band, seconds to build all level tables."""
    space = paper()
    return {
        "costs": _costs(space),
        "in_band_per_s": {f"{target:g}": round(_in_band_rate(_band(space, target))) for target in PAPER_LEVELS},
        "tables": _tables(space),
        "official": _official(space),
    }


def _costs(space: Space) -> dict[str, object]:
    rng = np.random.default_rng(0)
    few, many = space.sample(rng, WALKED), space.sample(rng, TABLED)
    figures: dict[str, object] = {}
    for name, table, scalar in (
        ("macs", CostTable.of_macs(space), macs),
        ("paper_mflops", CostTable.of_paper_flops(space), paper_mflops),
    ):

        def walk(scalar: Callable[..., float] = scalar) -> list[float]:
            return [scalar(space.decode(code)) for code in few]

        def total(table: CostTable = table) -> object:
            return table.total(many)

        rates = np.array([(_rate(walk, WALKED), _rate(total, TABLED)) for _ in range(ROUNDS)])
        figures[name] = {
            "scalar_per_s": round(float(np.median(rates[:, 0]))),
            "vectorised_per_s": round(float(np.median(rates[:, 1]))),
            "ratio": round(float(np.median(rates[:, 1] / rates[:, 0]))),
        }
    return figures


def _tables(space: Space) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        built = build_level_tables(space, Path(folder))
        seconds = time.perf_counter() - start
    return {"levels": len(built.levels), "networks_a_level": PER_LEVEL, "seconds": round(seconds, 1)}


def _official(space: Space) -> object:
    from benchmarks.official import NOT_GIVEN, official_path, official_supernet

    path = official_path()
    if path is None:
        return NOT_GIVEN
    supernet = official_supernet(path)
    return {
        "costs": _official_costs(space, supernet),
        "in_band": {f"{target:g}": _official_in_band(space, supernet, target) for target in OFFICIAL_LEVELS},
    }


def _official_costs(space: Space, supernet: "nn.Module") -> dict[str, object]:
    """Their `set_arch` and `compute_flops`, one architecture at a time, and our cost table for many at once."""
    from benchmarks.official import compute_flops, set_arch

    rng = np.random.default_rng(0)
    many, table = space.sample(rng, TABLED), CostTable.of_paper_flops(space)
    archs = [space.decode(code) for code in many[:WALKED]]
    lists = [arch.to_moonlit() for arch in archs]

    def theirs() -> list[float]:
        mflops = []
        for arch_lists in lists:
            set_arch(supernet, arch_lists)
            mflops.append(compute_flops(supernet))
        return mflops

    if not np.allclose(theirs(), table.total(many[:WALKED]) / 1e6, rtol=1e-12):
        raise AssertionError("the two do not compute the same")
    exact = CostTable.of_macs(space)
    rates = np.array(
        [
            (_rate(theirs, WALKED), _rate(lambda: table.total(many), TABLED), _rate(lambda: exact.total(many), TABLED))
            for _ in range(ROUNDS)
        ]
    )
    middle = np.median(rates, axis=0)
    return {
        "official_per_s": round(middle[0]),
        "paper_mflops_per_s": round(middle[1]),
        "macs_per_s": round(middle[2]),
        "paper_mflops_ratio": round(float(np.median(rates[:, 1] / rates[:, 0]))),
        "macs_ratio": round(float(np.median(rates[:, 2] / rates[:, 0]))),
    }


def _official_in_band(space: Space, supernet: "nn.Module", target: float) -> dict[str, object]:
    """Their rejection sampling for a few seconds per turn, then ours.

    Rejection sampling has so few hits in that time that its rate is computed as draws per second times the exact
    probability of a hit; the number of hits is reported too.
    """
    from benchmarks.official import compute_flops, set_arch

    band = _band(space, target)
    chance = band.chance(np.random.default_rng(0), DRAWN)
    floor = supernet.select_min_arch(target)  # type: ignore[operator]
    draws, hits, turns = 0, 0, []
    for _ in range(OFFICIAL_TURNS):
        start, before = time.perf_counter(), draws
        while time.perf_counter() - start < TURN_S:
            drawn: Sequence[object] = supernet.arch_sampling_engine(mode="uniform", min_arch=floor)  # type: ignore[operator]
            set_arch(supernet, drawn)
            hits += target <= compute_flops(supernet) <= target + PAPER_BAND
            draws += 1
        rate = (draws - before) / (time.perf_counter() - start)
        turns.append((rate * chance, _in_band_rate(band)))
    rates = np.array(turns)
    return {
        "official_draws": draws,
        "official_hits": hits,
        "chance_of_a_draw": round(chance, 5),
        "official_per_s": round(float(np.median(rates[:, 0])), 3),
        "ours_per_s": round(float(np.median(rates[:, 1]))),
        "ratio": round(float(np.median(rates[:, 1] / rates[:, 0]))),
    }


def _band(space: Space, target: float) -> BandSampler:
    return BandSampler(space, floor=floor_by_key(PAPER_FLOORS, target), low=target, high=target + PAPER_BAND)


def _in_band_rate(band: BandSampler) -> float:
    def draw() -> Codes:
        return band.sample(np.random.default_rng(0), DRAWN)

    return _rate(draw, DRAWN)


def _rate(action: Callable[[], object], n: int) -> float:
    blocks.cache_clear()
    start = time.perf_counter()
    action()
    return n / (time.perf_counter() - start)

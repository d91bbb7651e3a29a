"""Costs of candidates by cost tables, against the sum over an architecture's operators; and whole searches."""

import time
from collections.abc import Callable

import numpy as np

from elasticvit.archs.space import PRESETS, Codes, Space
from elasticvit.costs.blocks import blocks
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import macs
from elasticvit.latency.predictor import uncalibrated
from elasticvit.search.evolution import evolve
from elasticvit.search.limits import latency_limit, reachable_range

WALKED, TABLED, ROUNDS = 300, 200_000, 5


def figures() -> dict[str, object]:
    """Candidates per second both ways, timed in turns, and seconds of a search, for each preset space."""
    return {name: {**_costs(make()), "search_s": round(_search_s(make()), 2)} for name, make in PRESETS.items()}


def _costs(space: Space) -> dict[str, float]:
    rng = np.random.default_rng(0)
    few, many = space.sample(rng, WALKED), space.sample(rng, TABLED)
    table = CostTable.of_macs(space)
    rates = np.array(
        [(_rate(lambda: _walk(space, few), WALKED), _rate(lambda: table.total(many), TABLED)) for _ in range(ROUNDS)]
    )
    walk, tables = np.median(rates, axis=0)
    return {
        "walk_archs_per_s": round(walk),
        "table_archs_per_s": round(tables),
        "table_over_walk": round(float(np.median(rates[:, 1] / rates[:, 0]))),
    }


def _walk(space: Space, codes: Codes) -> list[int]:
    return [macs(space.decode(code)) for code in codes]


def _rate(action: Callable[[], object], n: int) -> float:
    blocks.cache_clear()
    start = time.perf_counter()
    action()
    return n / (time.perf_counter() - start)


def _search_s(space: Space) -> float:
    """A search in the middle of the reachable range, with MACs in place of accuracy."""
    predictor = uncalibrated(space)
    low, high = reachable_range(predictor, 0.9)
    limits = [latency_limit(predictor, (low + high) / 2, 0.9)]
    start = time.perf_counter()
    evolve(space, CostTable.of_macs(space).total, limits, np.random.default_rng(0))
    return time.perf_counter() - start

"""The sub-networks with the best predicted accuracy at every size, as searches return them."""

import numpy as np

from elasticvit.accuracy.predictor import AccuracyPredictor
from elasticvit.accuracy.table import Values
from elasticvit.archs.distinct import distinct
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.search.evolution import evolve
from elasticvit.search.limits import table_limit


def size_steps(space: Space, steps: int) -> Values:
    """Upper bounds of MACs from the smallest network to the largest, in equal ratios; shape (steps,)."""
    macs = CostTable.of_macs(space)
    ends = macs.total(np.stack([space.encode(space.smallest()), space.encode(space.largest())]))
    return np.asarray(np.geomspace(ends[0], ends[1], steps) * (1 + 1e-9), np.float64)


def best_predicted(predictor: AccuracyPredictor, steps: int, per_step: int, seed: int) -> Codes:
    """The smallest, and the `per_step` best predicted within the MACs of every further step; distinct, (n, D)."""
    rng, space = np.random.default_rng(seed), predictor.space
    macs = CostTable.of_macs(space)
    codes = [space.encode(space.smallest())[None]]
    for max_macs in size_steps(space, steps)[1:]:
        limits = [table_limit("macs", macs, float(max_macs))]
        codes.append(evolve(space, predictor.predict, limits, rng, count=per_step).best)
    return distinct(np.concatenate(codes))

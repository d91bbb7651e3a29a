"""Sub-networks that a predictor thinks best, of all sizes: what searches will ask for."""

import numpy as np

from elasticvit.accuracy.predictor import AccuracyPredictor
from elasticvit.accuracy.table import Values
from elasticvit.archs.space import Codes, Space
from elasticvit.costs.cost_table import CostTable
from elasticvit.search.evolution import evolve
from elasticvit.search.limits import table_limit


def size_steps(space: Space, steps: int) -> Values:
    """MACs that end the steps of size: the smallest's own, then a step of equal ratio each; shape (steps,)."""
    macs = CostTable.of_macs(space)
    ends = macs.total(np.stack([space.encode(space.smallest()), space.encode(space.largest())]))
    return np.asarray(np.geomspace(ends[0], ends[1], steps) * (1 + 1e-9), np.float64)


def best_predicted(predictor: AccuracyPredictor, steps: int, each: int, seed: int) -> Codes:
    """The smallest, and the `each` best by prediction within each further step's MACs; distinct, shape (n, D)."""
    rng, space = np.random.default_rng(seed), predictor.space
    macs = CostTable.of_macs(space)
    codes = [space.encode(space.smallest())[None]]
    for edge in size_steps(space, steps)[1:]:
        limits = [table_limit("macs", macs, float(edge))]
        codes.append(evolve(space, predictor.predict, limits, rng, count=each).best)
    return np.unique(np.concatenate(codes), axis=0)

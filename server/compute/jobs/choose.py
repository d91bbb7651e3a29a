"""From a request to limits, and from limits to sub-networks."""

from __future__ import annotations

import numpy as np

from elasticvit.costs.cost_table import CostTable
from elasticvit.latency.predictor import LatencyPredictor
from elasticvit.search.evolution import Frontier, evolve
from elasticvit.search.limits import Limit, latency_limit, table_limit
from server.compute.exporting.served_supernet import ServedSupernet
from server.services import searches
from server.services.spaces import size_mb
from server.wire import SearchRequest

SCOUTS = 20_000


def choose(request: SearchRequest, served: ServedSupernet, predictor: LatencyPredictor, budget_ms: float) -> Frontier:
    """The best members within the request's limits and this bound on the upper latency. Raises LimitError, BadValue."""
    rng = np.random.default_rng(request.seed or 0)
    limits = limits_of(request, served, predictor, budget_ms)
    return evolve(served.space, served.accuracy.predict, limits, rng, count=request.count)


def limits_of(
    request: SearchRequest, served: ServedSupernet, predictor: LatencyPredictor, budget_ms: float
) -> list[Limit]:
    """Every bound of a request, the latency first. Raises BadValue, PredictorError."""
    searches.check_supported(request)
    space = served.space
    limits = [latency_limit(predictor, budget_ms, request.confidence, request.statistic, "latency_ms")]
    if request.max_macs is not None:
        limits.append(table_limit("max_macs", CostTable.of_macs(space), request.max_macs))
    if request.max_size_mb is not None:
        limits.append(table_limit("max_size_mb", size_mb(space), request.max_size_mb))
    if request.max_accuracy_drop is not None:
        limits.append(_accuracy_limit(served, request.max_accuracy_drop))
    return limits


def _accuracy_limit(served: ServedSupernet, drop: float) -> Limit:
    """Predicted top-1 at most `drop`, a fraction (0 to 1), below the best of `SCOUTS` random members."""
    scouts = served.space.sample(np.random.default_rng(0), SCOUTS)
    scouts = np.concatenate([scouts, served.space.encode(served.space.largest())[None]])
    values = served.accuracy.predict(scouts)
    best = float(values.max())
    return Limit(
        "max_accuracy_drop", lambda codes: best - served.accuracy.predict(codes), drop, scouts[int(values.argmax())]
    )

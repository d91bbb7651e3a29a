"""Evolutionary search: the most accurate members of a space within hard limits, and their Pareto frontier.

The population is a batch of codes and all operations are array arithmetic, so a search evaluates about a hundred
thousand candidates per second. There are three sources of children: crossover and mutation of good parents, mutation of
members of the frontier, and every single step from the best few, with exchanges of one step up for one step down: close
to a hard limit the search is a packing problem, which random changes solve slowly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.distinct import distinct, first_rows
from elasticvit.archs.space import Codes, Space
from elasticvit.errors import SearchError
from elasticvit.search.limits import CostOfCodes, Limit, LimitError, Values, check_limits, excess
from elasticvit.search.pareto import pareto_front


@dataclass(frozen=True)
class Frontier:
    """The result of a search; every member is within every limit.

    Attributes:
        codes, latency_ms, accuracy: the frontier, by rising latency and accuracy; shapes (m, D), (m,), (m,). Latency
            is the cost of the first limit.
        best, best_latency_ms, best_accuracy: the answers, most accurate first, then fastest first; distinct.
        seen: number of candidates evaluated.
    """

    codes: Codes
    latency_ms: Values
    accuracy: Values
    best: Codes
    best_latency_ms: Values
    best_accuracy: Values
    seen: int


@dataclass(frozen=True)
class _Group:
    """Candidates with their costs and accuracies."""

    codes: Codes
    latency: Values
    accuracy: Values
    excess: Values

    def take(self, at: NDArray[np.int64]) -> "_Group":
        return _Group(self.codes[at], self.latency[at], self.accuracy[at], self.excess[at])

    def plus(self, other: "_Group") -> "_Group":
        joined = _Group(
            np.concatenate([self.codes, other.codes]),
            np.concatenate([self.latency, other.latency]),
            np.concatenate([self.accuracy, other.accuracy]),
            np.concatenate([self.excess, other.excess]),
        )
        return joined.take(np.sort(first_rows(joined.codes)))

    def ranked(self, n: int) -> "_Group":
        """The n best: those within the limits first, then by accuracy, then by latency."""
        order = np.lexsort((self.latency, -self.accuracy, self.excess))
        return self.take(order[:n])

    def ranked_by_resolution(self, n: int) -> "_Group":
        """The best of each resolution, n in all: a resolution changes every cost, so its best are found late."""
        resolutions = np.unique(self.codes[:, 0])
        share = -(-n // len(resolutions))
        own = [self.take(np.flatnonzero(self.codes[:, 0] == r)).ranked(share) for r in resolutions]
        joined = own[0]
        for group in own[1:]:
            joined = joined.plus(group)
        return joined.ranked(n)

    def front(self) -> "_Group":
        kept = np.flatnonzero(self.excess == 0)
        return self.take(kept[pareto_front(self.latency[kept], self.accuracy[kept])])


def evolve(
    space: Space,
    accuracy: CostOfCodes,
    limits: Sequence[Limit],
    rng: np.random.Generator,
    count: int = 1,
    population: int = 512,
    rounds: int = 40,
) -> Frontier:
    """Search a space; deterministic for a seed.

    Args:
        accuracy: of codes (n, D), shape (n,), higher is better.
        limits: at least one; the first is the latency, the frontier's other axis.
        count: number of answers; fewer are returned only if no more members are within the limits.

    Raises:
        LimitError: no member is within the limits; immediately, where a single limit is too low.
        SearchError: no limits, or a count below one.
    """
    if not limits or count < 1:
        raise SearchError("a search needs at least one limit and a count of one or more")
    check_limits(limits)

    def evaluated(codes: Codes) -> _Group:
        costs = [limit.cost(codes) for limit in limits]
        return _Group(codes, costs[0], accuracy(codes), excess(limits, costs))

    seeds = np.stack([limit.smallest for limit in limits])
    group = evaluated(distinct(np.concatenate([seeds, space.sample(rng, 4 * population)])))
    front, seen = group.front(), len(group.codes)
    group = group.ranked(population)
    for turn in range(rounds):
        children = evaluated(_children(space, group, front, rng, population))
        seen += len(children.codes)
        front = front.plus(children).front()
        group = group.plus(children)
        size = max(population, 4 * count)
        group = group.ranked_by_resolution(size) if turn < rounds / 2 else group.ranked(size)
    kept = group.plus(front).plus(evaluated(seeds))
    kept = kept.take(np.flatnonzero(kept.excess == 0))
    if not len(kept.codes):
        names = " and ".join(limit.name for limit in limits)
        raise LimitError(f"no sub-network was found that keeps {names} together", limits[0].smallest_cost, names)
    best, front = kept.ranked(count), kept.front()
    return Frontier(front.codes, front.latency, front.accuracy, best.codes, best.latency, best.accuracy, seen)


def _children(space: Space, group: _Group, front: _Group, rng: np.random.Generator, n: int) -> Codes:
    # Parents by rank: the square of a uniform draw favours the better ones.
    def parents(k: int) -> Codes:
        return group.codes[(len(group.codes) * rng.random(k) ** 2).astype(np.int64)]

    crossed = space.mutate(space.cross(parents(n), parents(n), rng), rng, 0.03)
    mutated = space.mutate(parents(n), rng, 0.08)
    pool = front.codes if len(front.codes) else group.codes
    spread = space.mutate(pool[rng.integers(0, len(pool), n // 2)], rng, 0.06)
    steps = _steps(space, group.codes[:8])
    swaps = _swaps(space, group.codes[:32], rng, n)
    return distinct(np.concatenate([crossed, mutated, spread, steps, swaps]))


def _steps(space: Space, codes: Codes) -> Codes:
    """Every member one step away from one of the codes."""
    unit = np.eye(codes.shape[1], dtype=np.int8)
    near: Codes = (codes[:, None] + np.concatenate([unit, -unit])[None]).reshape(-1, codes.shape[1])
    return near[space.valid(near)]


def _swaps(space: Space, codes: Codes, rng: np.random.Generator, n: int) -> Codes:
    """Members with one random position a step up and another a step down; at most n."""
    rows: Codes = np.repeat(codes, -(-n // len(codes)), axis=0)[:n]
    at = np.arange(len(rows))
    rows[at, rng.integers(0, rows.shape[1], len(rows))] += 1
    rows[at, rng.integers(0, rows.shape[1], len(rows))] -= 1
    return rows[space.valid(rows)]

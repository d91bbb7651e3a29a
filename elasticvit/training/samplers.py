"""Which sub-networks a step trains.

Adjacent-step sampling (ElasticViT, section 3.2): sub-networks that are trained together should be of similar size,
since gradients of very different ones fight each other. Every step moves to the same or a neighbouring level of MACs
and draws its sub-networks there; the smallest one of the space is always trained with them.
"""

from dataclasses import dataclass

import numpy as np

from elasticvit.arch import Arch
from elasticvit.costs import CostTable
from elasticvit.errors import SpaceError
from elasticvit.space import Codes, Space

DRAW, DRAWS = 2048, 500


@dataclass(frozen=True)
class AdjacentStep:
    """Draws `subnets` random sub-networks of one level, then the smallest.

    `edges` are MACs, strictly ascending, one more than there are levels: level i holds edges[i] to edges[i + 1].
    """

    space: Space
    costs: CostTable
    edges: tuple[float, ...]
    subnets: int

    @classmethod
    def over(cls, space: Space, levels: int, subnets: int) -> "AdjacentStep":
        """Levels that each hold an equal share of what the space samples.

        The walk visits all levels equally often, so that over time every network is trained as often as the space
        samples it. (Levels at even distances, as the authors have, train the few largest networks more often.)
        """
        costs = CostTable.of_macs(space)
        macs = costs.total(space.sample(np.random.default_rng(0), 20_000))
        inner = np.quantile(macs, np.arange(1, levels) / levels)
        largest = max(float(macs.max()), costs.total(space.encode(space.largest())[None])[0])
        return cls(space, costs, (costs.smallest()[0], *map(float, inner), largest), subnets)

    @property
    def levels(self) -> int:
        return len(self.edges) - 1

    def walk(self, level: int, rng: np.random.Generator) -> int:
        """The next level: down, stay or up with equal chance, and stay where the way would leave the ladder."""
        return int(np.clip(level + rng.integers(-1, 2), 0, self.levels - 1))

    def choose(self, level: int, rng: np.random.Generator) -> tuple[Arch, ...]:
        """The sub-networks of one step, the smallest last: the others teach it."""
        codes = self.in_band(level, rng, self.subnets)
        return (*(self.space.decode(code) for code in codes), self.space.smallest())

    def in_band(self, level: int, rng: np.random.Generator, n: int) -> Codes:
        """n random codes of a level, shape (n, D): what the space samples, kept when it has the right MACs.

        Raises:
            SpaceError: a million draws do not give enough.
        """
        low, high = self.edges[level : level + 2]
        found = np.empty((0, len(self.space.sizes)), np.int8)
        for _ in range(DRAWS):
            codes = self.space.sample(rng, DRAW)
            macs = self.costs.total(codes)
            found = np.concatenate([found, codes[(macs >= low) & (macs <= high)]])
            if len(found) >= n:
                return found[:n]
        raise SpaceError(
            f"space {self.space.name!r} has hardly any networks of {low / 1e6:.1f} to {high / 1e6:.1f} MMACs; take"
            " wider levels"
        )

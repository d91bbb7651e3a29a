"""The networks to measure first on a new device.

Random networks concentrate in the middle of a space, so a predictor would have to extrapolate to its small and large
members, which low and high budgets select. So probes are spread from the smallest to the largest network, and of
several candidates of one size the one with the most new blocks is chosen.
"""

import numpy as np

from elasticvit.archs.space import Codes, Space
from elasticvit.costs.blocks import blocks
from elasticvit.errors import PredictorError

_CANDIDATES = 24
# Largest deviation of a choice from the size of its network, as a fraction of the range of choices.
_SPREAD = 0.35


def choose_probes(space: Space, n: int, rng: np.random.Generator) -> Codes:
    """n different members, shape (n, D), from the smallest to the largest. Raises `PredictorError` for n below 2."""
    if n < 2:
        raise PredictorError(f"at least 2 networks are needed to span a space, got {n}")
    last = space.sizes - 1
    chosen = [np.zeros(len(last), np.int8), last.astype(np.int8)]
    seen = {block for code in chosen for block in blocks(space.decode(code))}
    taken = {code.tobytes() for code in chosen}
    for size in np.linspace(0, 1, n)[1:-1]:
        drawn = last * (size + _SPREAD * rng.uniform(-1, 1, (_CANDIDATES, len(last))))
        codes = space.mutate(np.clip(np.round(drawn), 0, last).astype(np.int8), rng, 0.0)
        fresh = [code for code in codes if code.tobytes() not in taken] or list(space.sample(rng, _CANDIDATES))
        new_blocks = [len(set(blocks(space.decode(code))) - seen) for code in fresh]
        best = fresh[int(np.argmax(new_blocks))]
        chosen.insert(-1, best)
        taken.add(best.tobytes())
        seen |= set(blocks(space.decode(best)))
    return np.stack(chosen)

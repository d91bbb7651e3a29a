"""The hierarchical smallest sub-networks, found as the authors found theirs (supplement E).

They train a supernet without their method for a sixth of the time, search it at two costs, and call the best ones the
second and third smallest. Here: one sandwich run with a seed of its own, as long as the plan says; the best of some
random sub-networks of each cost by the `search` split.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from elasticvit.archs.space import Codes
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.levels import Floors
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError, SpaceError
from elasticvit.progress import Report, Stop
from elasticvit.training.ablation.files import RunFiles
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.records import FloorsFound
from elasticvit.training.ablation.supernet_run import Evaluator, decoded
from elasticvit.training.ablation.work import Work, spent
from elasticvit.training.loop import train
from elasticvit.training.losses import Teacher

META_SEED = 1000


def find_floors(
    plan: Plan, data: ImageSet, teachers: Sequence[Teacher], files: RunFiles, report: Report, stop: Stop
) -> FloorsFound:
    """Train the supernet without the method and pick the floors. Raises what `train` does."""
    began = time.perf_counter()
    supernet = train(
        replace(plan, steps=plan.meta_steps).recipe("sandwich", (), META_SEED, len(data.train)),
        data,
        checkpoint=files.checkpoint,
        report=report,
        stop=stop,
        teachers=teachers,
        logs=Work(files.work, lambda: 0) if plan.curve else None,
    )
    trained, began = (spent(files.work).seconds, time.perf_counter()) if plan.curve else (0.0, began)
    evaluator, space = Evaluator.of(data), plan.space
    floors = [(plan.smallest_to, tuple(map(int, space.encode(space.smallest()))))]
    rng = np.random.default_rng((META_SEED, 4))
    for key, cost in plan.floors:
        draws = BandSampler(space, "paper_mflops", low=cost, high=cost + plan.band).sample(rng, plan.searched)
        codes = [code for code in draws if _fits(plan, code, floors[-1][0], key)]
        if not codes:
            raise DataError(f"no sub-network of {cost:g} MFLOPs leaves its levels any others; lower the floor's cost")
        scores = [evaluator.inherited(supernet, space.decode(code), data.search) for code in codes]
        floors.append((key, tuple(map(int, codes[int(np.argmax(scores))]))))
    return FloorsFound(tuple(floors), trained + time.perf_counter() - began)


def as_floors(plan: Plan, record: FloorsFound) -> Floors:
    """As settings of a sampler take them."""
    return tuple((key, decoded(plan.space, code)) for key, code in record.floors)


def _fits(plan: Plan, code: Codes, below: float, key: float) -> bool:
    """Whether the levels that a floor is for, above the key `below`, hold sub-networks that are nowhere below it."""
    floor = plan.space.decode(code)
    try:
        for target in plan.levels:
            if below + plan.band < target <= key + plan.band:
                BandSampler(plan.space, "paper_mflops", floor, low=target, high=target + plan.band)
    except SpaceError:
        return False
    return True

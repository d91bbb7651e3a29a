"""Cost tables against the walk over blocks, and their exact minimum."""

import numpy as np
import pytest

from elasticvit.archs.space import PRESETS
from elasticvit.costs.cost_table import CostTable
from elasticvit.costs.flops import block_params, macs, params


@pytest.mark.parametrize("name", PRESETS)
def test_tables_equal_the_walk(name: str) -> None:
    space = PRESETS[name]()
    codes = space.sample(np.random.default_rng(3), 100)
    archs = [space.decode(code) for code in codes]
    assert CostTable.of_macs(space).total(codes).tolist() == [macs(arch) for arch in archs]
    of_params = CostTable.build(space, lambda blocks: np.array([float(block_params(block)) for block in blocks]))
    assert of_params.total(codes).tolist() == [params(arch) for arch in archs]


def test_smallest_of_macs_is_the_smallest_network() -> None:
    space = PRESETS["small"]()
    smallest_macs, code = CostTable.of_macs(space).smallest()
    assert smallest_macs == macs(space.smallest())
    assert space.decode(code) == space.smallest()


@pytest.mark.parametrize("seed", range(3))
def test_smallest_of_an_arbitrary_cost_is_below_every_sample(seed: int) -> None:
    """A cost that rewards odd choices, so that the minimum is not the smallest network."""
    space = PRESETS["small"]()
    rng = np.random.default_rng(seed)
    table = CostTable.build(space, lambda blocks: rng.random(len(blocks)) - 0.3)
    least, code = table.smallest()
    assert space.valid(code[None])[0]
    assert table.total(code[None])[0] == pytest.approx(least)
    samples = space.sample(rng, 20_000)
    for _ in range(5):  # hill climbing around the best samples must not get below it either
        samples = samples[np.argsort(table.total(samples))[:2000]]
        samples = np.concatenate([samples, space.mutate(np.repeat(samples, 5, axis=0), rng, 0.05)])
    assert table.total(samples).min() >= least - 1e-9


def test_a_cost_function_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="one cost per block"):
        CostTable.build(PRESETS["small"](), lambda blocks: np.zeros(3))

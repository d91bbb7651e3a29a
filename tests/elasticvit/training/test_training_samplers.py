"""Which sub-networks are evaluated after training."""

import numpy as np
import pytest

from elasticvit.accuracy.tabulate import spread
from elasticvit.archs.space import small
from elasticvit.costs.cost_table import CostTable
from elasticvit.errors import DataError


def test_networks_to_evaluate_spread_over_all_sizes() -> None:
    space = small()
    codes = spread(space, 40)
    macs = CostTable.of_macs(space).total(codes)
    assert (space.decode(codes[0]), space.decode(codes[-1])) == (space.smallest(), space.largest())
    assert len(np.unique(codes, axis=0)) == 40 and (np.diff(macs) >= 0).all()
    assert np.array_equal(codes, spread(space, 40))
    with pytest.raises(DataError):
        spread(space, 1)

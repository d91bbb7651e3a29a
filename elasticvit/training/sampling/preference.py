"""The path preference: of sub-networks of one cost, those with wide and shallow transformer stages.

A candidate is compared with an anchor, a good sub-network: d = cost(anchor's widths, own depths) - cost(own widths,
anchor's depths), over the transformer stages only. Of networks of one cost the wider and shallower has the smaller d.
"""

import numpy as np
from numpy.typing import NDArray

from elasticvit.archs.space import WIDTH_AT, Codes
from elasticvit.costs.cost_table import CostTable

VIT_WIDTHS = list(WIDTH_AT[3:])
VIT_DEPTHS = [at + 1 for at in VIT_WIDTHS]


def depth_over_width(costs: CostTable, codes: Codes, anchor: Codes) -> NDArray[np.float64]:
    """d of every candidate (n, D) against an anchor (D,), shape (n,); smaller is wider and shallower."""
    deep, wide = codes.copy(), codes.copy()
    deep[:, VIT_WIDTHS] = anchor[VIT_WIDTHS]
    wide[:, VIT_DEPTHS] = anchor[VIT_DEPTHS]
    # The mixtures need not be members (their widths may decrease); their cost is defined all the same.
    return costs.total(deep) - costs.total(wide)


def preferred(costs: CostTable, candidates: Codes, anchor: Codes) -> Codes:
    """Of every group of candidates (groups, n, D) the one with the smallest d, (groups, D)."""
    groups, n, dims = candidates.shape
    d = depth_over_width(costs, candidates.reshape(-1, dims), anchor).reshape(groups, n)
    return np.asarray(candidates[np.arange(groups), d.argmin(axis=1)], np.int8)

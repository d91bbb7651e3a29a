"""The path preference: among sub-networks of equal cost, those with wide and shallow transformer stages.

A candidate is compared with an anchor, a good sub-network: d = cost(anchor's widths, own depths) - cost(own widths,
anchor's depths), over the transformer stages only. Among networks of equal cost, wider and shallower ones have a
smaller d.
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
    # The mixed codes need not be members (their widths may decrease), but their cost is defined.
    return costs.total(deep) - costs.total(wide)


def preferred(costs: CostTable, candidates: Codes, anchor: Codes) -> Codes:
    """The candidate with the smallest d of every group (groups, n, D), shape (groups, D)."""
    groups, n, dims = candidates.shape
    d = depth_over_width(costs, candidates.reshape(-1, dims), anchor).reshape(groups, n)
    return np.asarray(candidates[np.arange(groups), d.argmin(axis=1)], np.int8)

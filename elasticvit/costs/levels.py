"""The paper's levels of cost and its hierarchical smallest sub-networks (section 4.1, and the authors' settings)."""

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import Space

Floors = tuple[tuple[float, Arch], ...]

PAPER_LEVELS = (100.0, 200.0, 300.0, 400.0, 500.0, 700.0, 900.0, 1200.0)
PAPER_FLOORS: Floors = ((200.0, PUBLISHED["min1"]), (400.0, PUBLISHED["min2"]), (800.0, PUBLISHED["min3"]))
PAPER_BAND = 20.0


def floor_by_key(floors: Floors, target: float, band: float = PAPER_BAND) -> Arch:
    """The floor of a level by the authors' rule: the first whose key is not below target - band, else the last.

    With the paper's floors: min1 for targets to 220 MFLOPs, min2 to 420, min3 above. The paper's text says "closest",
    which by cost is min2 for 100 and 200 already, and min3 for 300 and 400.
    """
    return next((arch for key, arch in floors if target <= key + band), floors[-1][1])


def floors_of(space: Space) -> Floors:
    """The paper's floors with the head of this space, where all are its members; else no floors."""
    floors = tuple((key, space.adopt(arch)) for key, arch in PAPER_FLOORS)
    return floors if all(space.contains(arch) for _, arch in floors) else ()

"""The accuracy of one network: its value, how it is known, and the images behind it. Standard library only."""

from dataclasses import dataclass
from typing import Literal

AccuracySource = Literal["measured", "predicted"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 accuracy of a network in float32 on held-out images. Where nothing is known it is `None` instead.

    Attributes:
        value: a fraction (0 to 1).
        source: `measured` on this very network, or `predicted` from other sub-networks of its supernet.
        images: number of images it was measured on; 0 where it was predicted, or where the number is not known.
    """

    value: float
    source: AccuracySource = "measured"
    images: int = 0

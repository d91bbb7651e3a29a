"""The accuracy of one network: its value, its interval, how it is known, and the images behind it. No torch."""

from dataclasses import dataclass
from typing import Literal

from elasticvit.accuracy.intervals import wilson

AccuracySource = Literal["measured", "predicted"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 accuracy of a network in float32. Where nothing is known it is `None` instead.

    Attributes:
        value: a fraction (0 to 1).
        source: `measured` on this very network, or `predicted` from other sub-networks of its supernet.
        images: number of images it was measured on; 0 where it was predicted, or where the number is not known.
        independent: True if the images behind it trained nothing and chose nothing; False if they also chose the
            network, so that less is to be expected on others; None where that is not known.
        lower, upper: 95 % interval, fractions (0 to 1); None where it is not known.
    """

    value: float
    source: AccuracySource = "measured"
    images: int = 0
    independent: bool | None = None
    lower: float | None = None
    upper: float | None = None

    @classmethod
    def measured(cls, value: float, images: int, independent: bool | None = None) -> "Accuracy":
        """Of a network that is right for a fraction `value` of a number of images, with its Wilson interval."""
        lower, upper = wilson(value, images)
        return cls(value, "measured", images, independent, lower, upper)

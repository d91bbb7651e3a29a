"""The forms in which a file may take its image, and what each asks of the caller.

Nothing here imports torch.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Triple = tuple[float, float, float]


class InputKind(StrEnum):
    """What `--input` and the manifest call them; always one image, (1, side, side, 3), red, green, blue.

    normalised: float32, `(pixel / 255 - mean) / std` by the caller. pixels: float32 from 0 to 255; the file normalises.
    uint8: the bytes of the image; the file normalises.
    """

    NORMALISED = "normalised"
    PIXELS = "pixels"
    UINT8 = "uint8"


@dataclass(frozen=True, slots=True)
class InputForm:
    """An input kind with the normalisation of its network; `mean` and `std` are per channel, of pixels from 0 to 1."""

    kind: InputKind = InputKind.NORMALISED
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)

    @property
    def is_pixels(self) -> bool:
        """Whether the file normalises, and the caller does not."""
        return self.kind is not InputKind.NORMALISED

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The least and the greatest number of each channel, as the file takes it."""
        if self.is_pixels:
            return ((0.0, 255.0),) * 3
        return tuple(((0 - m) / s, (1 - m) / s) for m, s in zip(self.mean, self.std, strict=True))

    @property
    def range(self) -> tuple[float, float]:
        """What holds every channel's range."""
        return min(low for low, _ in self.ranges), max(high for _, high in self.ranges)

    @property
    def pixel_scale(self) -> tuple[Triple, Triple]:
        """Mean and deviation that the caller applies to pixels from 0 to 255; 0 and 1 where the file does it all."""
        if self.is_pixels:
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        (m0, m1, m2), (s0, s1, s2) = self.mean, self.std
        return (255 * m0, 255 * m1, 255 * m2), (255 * s0, 255 * s1, 255 * s2)

    def random(self, rng: np.random.Generator, images: int, side: int) -> NDArray[Any]:
        """Images as the file takes them, (images, side, side, 3), float32 or uint8, over the whole range."""
        shape = (images, side, side, 3)
        if self.kind is InputKind.UINT8:
            return rng.integers(0, 256, shape, dtype=np.uint8)
        return rng.uniform(*self.range, shape).astype(np.float32)

    def normalised(self, images: NDArray[Any]) -> Floats:
        """What the network sees of images as the file takes them; pixels and bytes become float64."""
        if not self.is_pixels:
            return images
        scaled: Floats = (images.astype(np.float64) / 255 - np.array(self.mean)) / np.array(self.std)
        return scaled

    def taken(self, images: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Images as the network sees them in the form that the file takes; bytes are rounded."""
        if self.kind is InputKind.NORMALISED:
            return images
        std, mean = (np.array(values, images.dtype) for values in (self.std, self.mean))
        pixels = (images * std + mean) * images.dtype.type(255)
        if self.kind is InputKind.UINT8:
            return np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        return pixels

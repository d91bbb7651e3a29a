"""A checkpoint of the authors' kind by formula: the same numbers in the tests and where their code was run.

Numbers come from the raw stream of Philox, keyed by the CRC-32 of a name, so they depend on no library's idea of a
distribution. Nothing here imports the package under test.
"""

import zlib
from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
EMA_DECAY = 0.99985


def numbers(name: str, shape: tuple[int, ...]) -> Array:
    """Uniform over [0, 1) in steps of 2⁻²⁴, exact in float32."""
    count = prod(shape)
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(-(-count // 2)).astype("<u8").view("<u4")
    return np.asarray((raw[:count] >> 8) * 2.0**-24, np.float32).reshape(shape)


def images(side: int, count: int = 1) -> Array:
    """(count, 3, side, side): stripes of several directions and noise, within ±1.5."""
    n, c, y, x = np.indices((count, 3, side, side))
    stripes = ((7 + n) * y + (3 + c) * x + 11 * c + 5 * n) % 32 / 16 - 1
    noise = numbers(f"image {side}", (count, 3, side, side))
    return np.asarray(stripes, np.float32) + noise - np.float32(0.5)


def weights(shapes: Mapping[str, tuple[int, ...]], shifted: bool = False) -> dict[str, NDArray[np.generic]]:
    """A state dict for these names and shapes; no scale is zero, no statistic is trivial.

    With `shifted` the position indices are those of a moving average: averaged in float32, then truncated.
    """
    return {key: _tensor(key, shape, shifted) for key, shape in shapes.items()}


def _tensor(key: str, shape: tuple[int, ...], shifted: bool) -> NDArray[np.generic]:
    if key.endswith("relative_position_index"):
        index = position_index(round(shape[0] ** 0.5))
        return averaged(index) if shifted else index
    if key.endswith("num_batches_tracked"):
        return np.array(zlib.crc32(key.encode()) % 1000)
    u = numbers(key, shape)
    if key.endswith(("running_var", "bn.weight", "norm1.weight", "norm_0.weight")):
        return u + np.float32(0.5)
    if key.endswith(("running_mean", ".bias")):
        return (u - np.float32(0.5)) * np.float32(0.4)
    if key.endswith("attention_bias"):
        return (u - np.float32(0.5)) * 2
    return (2 * u - 1) * np.float32((3 / prod(shape[1:])) ** 0.5)


def position_index(side: int) -> NDArray[np.int64]:
    """(side², side²): row of the table of offsets for query and key."""
    y, x = np.divmod(np.arange(side**2), side)
    return ((y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1).astype(np.int64)


def averaged(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """What a moving average of whole numbers leaves of them after its first update."""
    whole = index.astype(np.float32)
    return (whole * np.float32(EMA_DECAY) + np.float32(1 - EMA_DECAY) * whole).astype(np.int64)

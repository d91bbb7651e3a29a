"""Decodes one image of any format to a square of bytes, or says why it cannot."""

import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from elasticvit.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Formats that are tried; Pillow's others start other programs or are not for photographs."""
MAX_PIXELS = 2**26
"""Largest image that is decoded whole: 64 million pixels, 200 MB. A JPEG is first shrunk as it is read."""

Pixels = NDArray[np.uint8]


class UnreadableImageError(DataError):
    """The bytes are not a usable image; the message is a short reason."""


def pixels(content: bytes | Path, side: int) -> Pixels:
    """RGB bytes (3, side, side) of an encoded image: upright, short side resized (bicubic), then the centre square.

    An image that is already side × side is not resampled. Grayscale, palette, CMYK and 16-bit images become 8-bit RGB,
    transparent ones are put on white. A JPEG of over twice the size is scaled down by a power of two while it is
    decoded (`Image.draft`), which saves time and memory.

    Raises:
        UnreadableImageError: it is empty, damaged, not an image, or too large.
    """
    try:
        if (len(content) if isinstance(content, bytes) else content.stat().st_size) == 0:
            raise UnreadableImageError("empty")
        with _opened(content) as image:
            full_size = image.size
            image.draft(None, (2 * side, 2 * side))
            # A progressive JPEG is held in memory at full size while it is decoded.
            width, height = full_size if "progressive" in image.info else image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImageError(f"too large, {full_size[0]}×{full_size[1]}")
            square = _square(_rgb(_upright(image)), side)
        return np.asarray(square).transpose(2, 0, 1)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as e:
        raise UnreadableImageError("not an image") from e
    except Image.DecompressionBombError as e:
        raise UnreadableImageError("too large") from e
    # On damaged bytes decoders raise errors of any type.
    except Exception as e:
        raise UnreadableImageError(_reason(e)) from e


def common_side(contents: list[bytes | Path]) -> int | None:
    """The common side of all readable images, if they are squares of one size; reads only their headers."""
    sizes = set()
    for content in contents:
        # Images that cannot be opened are reported when they are decoded.
        with suppress(Exception), _opened(content) as image:
            sizes.add(image.size)
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    return width if width == height else None


def _opened(content: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return (str(error) or type(error).__name__).splitlines()[0][:80]


def _upright(image: Image.Image) -> Image.Image:
    """Rotated by its EXIF orientation; damaged EXIF data is ignored."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError("more than 16 bits per pixel")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))

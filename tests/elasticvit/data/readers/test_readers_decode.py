"""One image of any kind: what becomes of it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elasticvit.data.readers.decode import Pixels, UnreadableImageError, common_side, pixels
from tests.elasticvit.data.image_files import encoded, image


def _close(decoded: Pixels, wanted: Image.Image, tolerance: float) -> bool:
    expected = np.asarray(wanted.convert("RGB")).transpose(2, 0, 1).astype(float)
    return decoded.shape == expected.shape and float(np.abs(decoded - expected).mean()) <= tolerance


def test_an_image_of_the_right_size_keeps_its_bytes(tmp_path: Path) -> None:
    picture, file = image(0, (24, 24)), tmp_path / "a.png"
    file.write_bytes(encoded(picture))
    for content in (file, file.read_bytes()):
        assert np.array_equal(pixels(content, 24), np.asarray(picture).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "PA", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = image(1)
    if mode.startswith("I"):
        values = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        converted = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
        wanted = picture.convert("L")
    else:
        converted = picture.convert(mode)
        wanted = converted.convert("RGB")
    assert converted.mode == mode
    assert _close(pixels(encoded(converted, "tiff"), 16), wanted, 0)


def test_a_cmyk_jpeg_and_a_grayscale_png_of_16_bits() -> None:
    picture = image(2, (32, 32))
    assert _close(pixels(encoded(picture.convert("CMYK"), "jpeg", quality=95), 32), picture, 12)
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    assert _close(pixels(encoded(deep, "png"), 32), picture.convert("L"), 0)


def test_what_is_transparent_lies_on_white() -> None:
    picture = image(3).convert("RGBA")
    picture.putalpha(Image.fromarray(np.repeat([[0], [255]], 8, axis=0).astype(np.uint8).repeat(16, axis=1)))
    decoded = pixels(encoded(picture), 16)
    assert (decoded[:, :8] == 255).all()
    assert np.array_equal(decoded[:, 8:], np.asarray(image(3)).transpose(2, 0, 1)[:, 8:])
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert (pixels(encoded(palette, "png", transparency=0), 16) == 255).all()


def test_exif_orientation_is_honoured_and_damaged_exif_ignored() -> None:
    picture, exif = image(4), Image.Exif()
    exif[0x0112] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    assert _close(pixels(encoded(turned, "png", exif=exif), 16), picture, 0)
    assert _close(pixels(encoded(picture, "png", exif=b"Exif\0\0MM broken"), 16), picture, 0)


def test_other_sizes_lose_their_ends_and_are_resized() -> None:
    # Left, middle and right third in red, green and blue: only the middle is within the square.
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    for i in range(3):
        wide[:, 20 * i : 20 * (i + 1), i] = 255
    for picture in (Image.fromarray(wide), Image.fromarray(wide.transpose(1, 0, 2))):
        decoded = pixels(encoded(picture), 10)
        assert decoded.shape == (3, 10, 10)
        assert (decoded[1, 2:-2, 2:-2] > 250).all() and (decoded[[0, 2], 2:-2, 2:-2] < 5).all()
    assert pixels(encoded(image(5, (3, 700))), 16).shape == (3, 16, 16)


def test_a_large_jpeg_is_shrunk_as_it_is_read_and_looks_the_same() -> None:
    picture = image(6, (512, 512))
    assert _close(
        pixels(encoded(picture, "jpeg", quality=95), 32), picture.resize((32, 32), Image.Resampling.BICUBIC), 6
    )


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_jpeg_is_decoded_and_a_huge_png_is_not() -> None:
    huge = Image.new("L", (12_000, 12_000), 128)
    assert (pixels(encoded(huge, "jpeg"), 16) == 128).all()
    for content in (encoded(huge, "png", compress_level=1), _png_that_claims(60_000, 60_000)):
        with pytest.raises(UnreadableImageError, match="too large"):
            pixels(content, 16)


def _png_that_claims(width: int, height: int) -> bytes:
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = encoded(image(0))
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encoded(image(7, (64, 64)), "jpeg")[:600], "(?i)truncated"),
        (encoded(image(7, (64, 64)), "png")[:100], "(?i)truncated"),
        (encoded(Image.new("F", (16, 16)), "tiff"), "floating-point"),
        (encoded(Image.fromarray(np.full((16, 16), 70_000, dtype=np.int32)), "tiff"), "more than 16 bits"),
    ],
)
def test_unreadable_images_have_a_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    for given in (content, file):
        with pytest.raises(UnreadableImageError, match=reason):
            pixels(given, 16)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else() -> None:
    rng, raised = np.random.default_rng(0), 0
    for kind in ("png", "jpeg", "webp", "gif", "tiff", "bmp"):
        whole = np.frombuffer(encoded(image(8, (40, 40)), kind), dtype=np.uint8)
        for _ in range(60):
            broken = whole.copy()
            broken[rng.integers(len(whole), size=8)] = rng.integers(256, size=8)
            try:
                assert pixels(broken.tobytes(), 16).shape == (3, 16, 16)
            except UnreadableImageError:
                raised += 1
    assert raised > 30


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        pixels(tmp_path / "gone.png", 16)


def test_the_common_side_is_that_of_equal_squares() -> None:
    squares = [encoded(image(i, (20, 20))) for i in range(3)]
    assert common_side([*squares, b"broken"]) == 20
    assert common_side([*squares, encoded(image(0, (21, 20)))]) is None
    assert common_side([encoded(image(0, (21, 20)))]) is None
    assert common_side([io.BytesIO().getvalue()]) is None

"""Resized crops, erasing and RandAugment: what they do to pixels; Pillow is the oracle where it has the operation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from elasticvit.training.augment.augment import Augment, erased, resized_cropped
from elasticvit.training.augment.randaugment import OPERATIONS, randaugment
from tests.elasticvit.data.image_files import image


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(count: int = 6, side: int = 24) -> Tensor:
    """Pictures (count, 3, side, side) from 0 to 1 whose levels are bytes."""
    pictures = [image(i, (side, side)).resize((side, side)) for i in range(count)]
    smooth = [
        picture.resize((7, 7), Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.BICUBIC)
        for picture in pictures
    ]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in smooth]).float() / 255


def _pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pictures = [Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()) for picture in images]
    changed = [torch.from_numpy(np.array(change(picture))).permute(2, 0, 1) for picture in pictures]
    return torch.stack(changed).float() / 255


def _strength(value: float, count: int = 6) -> Tensor:
    return torch.full((count, 1, 1, 1), value)


AUGMENTS = [
    Augment(resized_crop=(0.2, 1.0)),
    Augment(erasing=0.5),
    Augment(randaugment=(2, 9.0)),
    Augment(randaugment=(2, 5.0), randaugment_spread=0.5, randaugment_chance=0.5),
]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_augmentation_follows_from_the_generator_and_spares_its_input(augment: Augment) -> None:
    images = _batch(8) * 2 - 1
    before = images.clone()
    first, again, other = (augment(images, _generator(seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape and first.dtype == images.dtype
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before)
    assert bool(first.isfinite().all())


@pytest.mark.medium
@pytest.mark.parametrize("augment", [AUGMENTS[0], AUGMENTS[2], AUGMENTS[3]])
def test_values_stay_between_black_and_white(augment: Augment) -> None:
    for seed in range(20):
        out = augment(_batch(16) * 2 - 1, _generator(seed))
        assert out.min() >= -1 - 1e-5 and out.max() <= 1 + 1e-5


def test_black_and_white_are_scaled_by_the_sets_mean_and_std() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    offset, factor = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    plain = Augment(randaugment=(2, 9.0))(_batch() * 2 - 1, _generator())
    other = Augment(randaugment=(2, 9.0), mean=mean, std=std)((_batch() - offset) / factor, _generator())
    assert torch.allclose(other * factor + offset, (plain + 1) / 2, atol=1e-5)


def test_a_resized_crop_of_everything_is_the_image() -> None:
    images = _batch()
    assert torch.allclose(resized_cropped(images, (1, 1), (1, 1), _generator()), images, atol=1e-5)


def test_a_resized_crop_has_its_area_and_ratio_and_lies_inside() -> None:
    # A plane whose values are the coordinates: the crop's slope is its size, its values where it is.
    side, count = 64, 400
    along = (torch.arange(side) + 0.5) / side
    plane = torch.stack([along.expand(side, side), along[:, None].expand(side, side), torch.zeros(side, side)])
    out = resized_cropped(plane.expand(count, -1, -1, -1), (0.25, 0.5), (0.5, 2.0), _generator())
    middle = slice(16, 48)
    wide = (out[:, 0, 32, middle].diff(dim=1).mean(1) * side).clamp(max=1)
    high = (out[:, 1, middle, 32].diff(dim=1).mean(1) * side).clamp(max=1)
    area, ratio = wide * high, wide / high
    assert 0.24 < area.min() < 0.27 and 0.47 < area.max() < 0.51
    assert 0.49 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.02
    x, y = out[:, 0, 32, 31:33].mean(1), out[:, 1, 31:33, 32].mean(1)
    for centre, size in ((x, wide), (y, high)):
        assert (centre - size / 2).min() > -0.02 and (centre + size / 2).max() < 1.02
        assert (centre - size / 2).min() < 0.05 and (centre + size / 2).max() > 0.95


def test_a_crop_that_cannot_fit_is_cut() -> None:
    images = _batch()
    wide = resized_cropped(images, (0.9, 0.9), (4, 4), _generator())
    assert wide.shape == images.shape and bool(wide.isfinite().all())


def test_erasing_makes_one_rectangle_of_noise_in_its_part_of_the_images() -> None:
    images = torch.full((1000, 3, 20, 20), 9.0)
    out = erased(images, 0.3, _generator())
    changed = (out != 9).all(1)
    touched = changed.flatten(1).any(1)
    assert 250 < int(touched.sum()) < 350
    for mask in changed[touched]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    areas = changed[touched].float().mean((1, 2))
    assert areas.min() < 0.05 and 0.28 < areas.max() < 0.4
    noise = out[out != 9]
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert torch.equal(erased(images, 0.0, _generator()), images)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_no_strength_changes_nothing(name: str) -> None:
    images = _batch()
    assert torch.allclose(OPERATIONS[name](images, _strength(0)), images, atol=2e-6)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"identity"}))
def test_every_operation_does_something_to_each_image(name: str) -> None:
    images = _batch() * 0.6 + 0.1
    out = OPERATIONS[name](images, _strength(0.7))
    assert out.shape == images.shape
    assert ((out - images).abs().flatten(1).max(1).values > 0.01).all()


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("colour", ImageEnhance.Color),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
@pytest.mark.parametrize("strength", [-1.0, -0.3, 0.6, 1.0])
def test_enhancements_are_pillows(
    name: str, enhance: Callable[[Image.Image], ImageEnhance._Enhance], strength: float
) -> None:
    images = _batch()
    wanted = _pillow(images, lambda picture: enhance(picture).enhance(1 + 0.9 * strength))
    # Pillow rounds what it takes away from to bytes first.
    assert (OPERATIONS[name](images, _strength(strength)) - wanted).abs().max() < 2.6 / 255


def test_equalize_solarize_posterize_and_autocontrast_are_pillows() -> None:
    images = _batch()
    flat = torch.full((1, 3, 24, 24), 0.4)
    assert torch.equal(OPERATIONS["equalize"](images, _strength(1)), _pillow(images, ImageOps.equalize))
    assert torch.allclose(OPERATIONS["equalize"](flat, _strength(1, 1)), flat, atol=1e-6)
    wanted = _pillow(images, lambda picture: ImageOps.solarize(picture, 128))
    assert torch.allclose(OPERATIONS["solarize"](images, _strength(-0.5)), wanted, atol=1e-6)
    wanted = _pillow(images, lambda picture: ImageOps.posterize(picture, 4))
    assert torch.allclose(OPERATIONS["posterize"](images, _strength(1)), wanted, atol=1e-6)
    wanted = _pillow(images, ImageOps.autocontrast)
    assert (OPERATIONS["autocontrast"](images, _strength(1)) - wanted).abs().max() < 1.1 / 255
    assert torch.equal(OPERATIONS["autocontrast"](flat, _strength(1, 1)), flat)


def test_moves_go_as_far_as_they_say() -> None:
    dot = torch.full((1, 3, 40, 40), 0.5)
    dot[:, :, 19:21, 29:31] = 1.0  # centre of the image plus 10 to the right

    def centre(name: str, strength: float) -> tuple[float, float]:
        bright = OPERATIONS[name](dot, _strength(strength, 1))[0, 0] - 0.5
        where = torch.arange(40) - 19.5
        total = float(bright.sum())
        return float((bright.sum(0) * where).sum()) / total, float((bright.sum(1) * where).sum()) / total

    assert centre("translate_x", -0.5) == pytest.approx((10 + 0.5 * 0.45 * 40 - 0, 0), abs=0.6)
    assert centre("translate_y", 0.5) == pytest.approx((10, -0.5 * 0.45 * 40), abs=0.3)
    assert centre("rotate", 1.0) == pytest.approx((10 * 3**0.5 / 2, -5), abs=0.3)
    assert centre("shear_y", 1.0) == pytest.approx((10, -3), abs=0.3)
    assert centre("shear_x", 1.0) == pytest.approx((10, 0), abs=0.3)


def test_randaugment_gives_each_image_its_own_operations() -> None:
    images = _batch(1).expand(300, -1, -1, -1)
    out = randaugment(images, 1, 8.0, _generator())
    kinds = {picture.numpy().tobytes() for picture in out.round(decimals=4)}
    # Eleven operations of two signs, and three without strength.
    assert 20 <= len(kinds) <= 25
    untouched = (out == images).flatten(1).all(1).float().mean()
    assert 0.02 < untouched < 0.16
    assert torch.equal(randaugment(images, 0, 8.0, _generator()), images)
    assert torch.equal(randaugment(images, 3, 8.0, _generator(), chance=0.0), images)
    spread = randaugment(images, 1, 5.0, _generator(), spread=2.0)
    assert len({picture.numpy().tobytes() for picture in spread}) > 150

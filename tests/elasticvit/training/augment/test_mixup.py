"""Soft targets and mixed images, against values computed by hand."""

import numpy as np
import pytest
import torch

from elasticvit.errors import DataError
from elasticvit.training.augment.mixup import Mix, cut_together


def _batch(count: int = 4, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one value each, their number."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, side, side).clone(), torch.arange(count)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_targets_are_smoothed_and_images_left_alone() -> None:
    images, labels = _batch()
    mixed, targets = Mix()(images, labels, 5, 0.1, _generator(0))
    assert mixed is images
    expected = torch.full((4, 5), 0.02)
    expected[range(4), range(4)] = 0.92
    assert torch.allclose(targets, expected)


def test_mixup_weighs_images_and_targets_alike() -> None:
    images, labels = _batch()
    shares = []
    for seed in range(200):
        mixed, targets = Mix(mixup=1.0)(images, labels, 4, 0.0, _generator(seed))
        share = float(targets[0, 0])
        # The first is mixed with the last: 0 · share + 3 · (1 - share).
        assert torch.allclose(mixed[0], torch.full((3, 8, 8), 3 * (1 - share)), atol=1e-5)
        assert torch.allclose(mixed[2], torch.full((3, 8, 8), 2 * share + 1 - share), atol=1e-5)
        assert torch.allclose(targets[0], torch.tensor([share, 0, 0, 1 - share]))
        assert torch.allclose(targets[2], torch.tensor([0, 1 - share, share, 0]))
        shares.append(share)
    # Beta(1, 1) is uniform: mean 1/2, standard deviation 1/√12.
    assert abs(np.mean(shares) - 0.5) < 0.07 and abs(np.std(shares) - 12**-0.5) < 0.04


def test_a_small_alpha_rarely_mixes() -> None:
    images, labels = _batch()
    shares = [float(Mix(mixup=0.01)(images, labels, 4, 0.0, _generator(seed))[1][0, 0]) for seed in range(100)]
    assert sum(0.01 < share < 0.99 for share in shares) < 15


def test_mixing_follows_from_the_generator() -> None:
    images, labels = _batch()
    mix = Mix(mixup=0.5, cutmix=0.5)
    first, again, other = (mix(images, labels, 4, 0.1, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_cutmix_counts_the_pixels_that_are_there() -> None:
    images, labels = _batch()
    for seed in range(50):
        mixed, targets = Mix(cutmix=1.0)(images, labels, 4, 0.0, _generator(seed))
        assert set(mixed[0].flatten().tolist()) <= {0.0, 3.0}
        kept = float((mixed[0] == 0).float().mean())
        assert torch.allclose(targets[0], torch.tensor([kept, 0, 0, 1 - kept]), atol=1e-6)
        other = (mixed[0] == 3)[0]
        rows, columns = other.any(1).nonzero(), other.any(0).nonzero()
        if len(rows):
            assert other[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@pytest.mark.parametrize(("share", "max_pixels"), [(0.75, 16), (0.0, 64), (1.0, 0)])
def test_a_cut_takes_the_other_share_of_the_area_unless_the_border_cuts_it(share: float, max_pixels: int) -> None:
    images, _ = _batch(2)
    taken = []
    for seed in range(100):
        mixed, kept = cut_together(images, share, np.random.default_rng(seed))
        taken.append(int((mixed[0, 0] == 1).sum()))
        assert kept == pytest.approx(1 - taken[-1] / 64)
    assert max(taken) == max_pixels
    assert max_pixels in (0, 64) or min(taken) < max_pixels


def test_switch_is_how_often_it_is_cutmix() -> None:
    images, labels = _batch(2)
    for switch, low, high in ((0.0, 0, 0), (0.25, 25, 80), (1.0, 200, 200)):
        mix = Mix(mixup=1.0, cutmix=1.0, switch=switch)
        batches = [mix(images, labels, 2, 0.0, _generator(seed))[0] for seed in range(200)]
        assert low <= sum(set(mixed.flatten().tolist()) <= {0.0, 1.0} for mixed in batches) <= high


def test_smoothed_targets_stay_distributions() -> None:
    images, labels = _batch()
    for seed in range(20):
        _, targets = Mix(mixup=0.4, cutmix=0.4)(images, labels, 10, 0.2, _generator(seed))
        assert torch.allclose(targets.sum(1), torch.ones(4)) and targets.min() >= 0.02 - 1e-6


@pytest.mark.parametrize("settings", [{"mixup": -0.1}, {"cutmix": -1.0}, {"switch": 1.5}])
def test_absurd_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(DataError):
        Mix(**settings)

"""Data sets, their splits, and augmentation."""

import numpy as np
import pytest
import torch

from elasticvit.errors import DataError
from elasticvit.training.augment import Augment
from elasticvit.training.data import Split, digits, load_named, stratified


def test_digits_are_bytes_with_labels_in_three_splits() -> None:
    data = digits()
    splits = (data.train, data.search, data.val)
    assert sum(map(len, splits)) == 1797
    for split in splits:
        assert split.images.shape == (len(split), 3, 32, 32) and split.images.dtype == torch.uint8
        assert split.images.amin() == 0 and split.images.amax() == 255
        assert set(split.labels.tolist()) == set(range(10))
    assert data.class_names == tuple("0123456789")


def test_splits_are_disjoint_and_stratified() -> None:
    labels = torch.cat([digits().train.labels, digits().search.labels])
    parts = stratified(labels, (3, 1, 1), np.random.default_rng(0))
    rows = torch.cat(parts)
    assert sorted(rows.tolist()) == list(range(len(labels)))
    counts = torch.stack([labels[part].bincount() for part in parts])
    shares = counts / counts.sum(0)
    assert (shares - torch.tensor([[0.6], [0.2], [0.2]])).abs().max() < 0.01


def test_a_leading_part_of_a_split_is_mixed() -> None:
    assert len(set(digits().train.labels[:64].tolist())) == 10


def test_splits_follow_from_the_generator() -> None:
    labels = torch.arange(100) % 4
    a, b, c = (stratified(labels, (1, 1), np.random.default_rng(seed))[0].tolist() for seed in (1, 1, 2))
    assert a == b != c


def test_scaled_images_are_what_the_card_says() -> None:
    levels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    scaled = digits().scaled(levels)
    assert torch.equal(scaled[0], torch.full((3, 4, 4), -1.0))
    assert torch.equal(scaled[1], torch.full((3, 4, 4), 1.0))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    assert load_named("digits") is digits()
    with pytest.raises(DataError, match=r"'imagenet'; known: digits, cifar10, flowers, tiny-imagenet"):
        load_named("imagenet")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(DataError):
        Split(images, labels)


def test_augmentation_moves_each_image_by_its_own_amounts() -> None:
    image = digits().scaled(digits().train.images[:1])
    batch = image.expand(4, -1, -1, -1)
    augment = Augment(rotate=10, shift=0.1, scale=0.1)
    first, again, other = (augment(batch, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == batch.shape
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert Augment()(batch, torch.Generator()) is batch


def test_a_shift_moves_the_centre_by_at_most_its_part_of_the_side() -> None:
    image = torch.full((64, 3, 32, 32), -1.0)
    image[:, :, 15:17, 15:17] = 1.0
    moved = Augment(shift=0.25)(image, torch.Generator().manual_seed(0))[:, 0] + 1
    where = torch.arange(32) + 0.5
    x, y = ((moved.sum(axis) * where).sum(1) / moved.sum((1, 2)) - 16 for axis in (1, 2))
    for distance in (x, y):
        assert 6 < distance.abs().max() <= 8.01
        assert distance.min() < 0 < distance.max()

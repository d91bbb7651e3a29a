"""Data sets, their splits, and augmentation."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from elasticvit.data.image_set import Split, data_folder, digits, load_named, stratified
from elasticvit.errors import DataError
from elasticvit.training.augment.augment import Augment


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


def test_images_are_scaled_by_the_cards_mean_and_std() -> None:
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


SHIPPED = {"cifar10": "cifar10-jpeg", "flowers": "flowers-demo-64", "tiny-imagenet": "tiny-imagenet-200"}


def _needs(name: str) -> None:
    if not (data_folder() / SHIPPED[name]).is_dir():
        pytest.skip(f"ELASTICVIT_DATA has no folder {SHIPPED[name]}")


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELASTICVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.usefixtures("decoded")
def test_flowers_come_with_their_terms() -> None:
    _needs("flowers")
    data = load_named("flowers")
    assert data.class_names == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert [len(split) for split in (data.train, data.search, data.val)] == [540, 60, 150]
    assert data.train.images.shape[1:] == (3, 64, 64)
    assert data.terms is not None and "CC BY 2.0" in data.terms
    assert load_named("flowers@24").val.images.shape == (150, 3, 24, 24)


@pytest.mark.slow
@pytest.mark.usefixtures("decoded")
def test_cifar10_keeps_its_rows() -> None:
    _needs("cifar10")
    data = load_named("cifar10")
    # Supernets were trained on these rows, in this order.
    for split, digest in ((data.train, "5866f72584a1590e"), (data.search, "c02298fedc391008")):
        assert sha256(split.images.numpy().tobytes()).hexdigest().startswith(digest)
    assert data.train.labels[:10].tolist() == [2, 3, 6, 3, 2, 1, 4, 5, 4, 0]
    assert data.terms is not None and "no formal licence" in data.terms


@pytest.mark.slow
@pytest.mark.usefixtures("decoded")
def test_tiny_imagenet_trains_on_nothing_that_val_shows() -> None:
    _needs("tiny-imagenet")
    # Among the first 25 labels there is one of the images that lie in both.
    data = load_named("tiny-imagenet:25")
    assert (data.name, len(data.class_names), data.class_names[0]) == (
        "tiny-imagenet:25",
        25,
        "goldfish, Carassius auratus",
    )
    assert data.terms is not None and "non-commercial" in data.terms
    seen = {image.numpy().tobytes() for image in data.val.images}
    assert len(data.val) == 25 * 50
    assert not any(image.numpy().tobytes() in seen for image in torch.cat([data.train.images, data.search.images]))


@pytest.mark.parametrize("name", ["tiny-imagenet:0", "flowers@0", "tiny-imagenet@99999", "", "@64", ":3"])
def test_absurd_names_are_refused(name: str) -> None:
    with pytest.raises(DataError):
        load_named(name)


def test_the_error_for_a_missing_folder_names_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="set ELASTICVIT_DATA to the folder that holds cifar10-jpeg"):
        load_named("cifar10")

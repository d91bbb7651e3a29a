"""Which images are known to have trained and chosen nothing of a supernet."""

from dataclasses import replace

import pytest
import torch

from elasticvit.accuracy.independence import val_is_apart
from elasticvit.accuracy.value import Accuracy
from elasticvit.accuracy.words import in_words
from elasticvit.data.image_set import ImageSet, Split, digits
from elasticvit.nn.supernet_file import Card
from elasticvit.training.recipes import card
from tests.elasticvit.training.tiny_training import tiny_recipe


def _moved() -> ImageSet:
    """The digits after their folder got new images: some that were trained on are images of `val` now."""
    known = digits()
    val = Split(known.train.images[: len(known.val)], known.train.labels[: len(known.val)])
    return replace(known, val=val)


def test_a_supernet_knows_which_images_were_what() -> None:
    trained = card(tiny_recipe(), digits())
    splits = trained.provenance["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 1078, "search": 360, "val": 359}
    assert val_is_apart(trained, digits()) is True
    assert val_is_apart(trained, _moved()) is None
    assert Card.from_json(trained.to_json()).provenance["splits"] == splits


def test_files_from_before_the_record() -> None:
    """They hold the number of training images, and sets were split by the same rule."""
    old = Card("old", digits().class_names, "digits", provenance={"images": len(digits().train)})
    assert val_is_apart(old, digits()) is True
    more = replace(digits(), train=digits().search)
    assert val_is_apart(old, more) is None
    assert val_is_apart(replace(old, provenance={}), digits()) is None, "as after import-checkpoint"
    assert val_is_apart(None, digits()) is True, "it is being trained on these"


def test_a_sample_of_a_split_is_fair_and_always_the_same() -> None:
    """Splits that others made may be sorted by class."""
    labels = torch.arange(10).repeat_interleave(100)
    split = Split(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), labels)
    rows = split.rows(300)
    assert len(rows) == 300 == len(set(rows.tolist())) and torch.equal(rows, split.rows(300))
    assert torch.bincount(labels[rows]).min() >= 15
    assert torch.equal(split.rows(), torch.arange(1000)) and torch.equal(split.rows(2000), torch.arange(1000))


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (
            Accuracy.measured(0.5, 5000, independent=True),
            "measured on 5,000 images that were used for no choice (95 % interval 48.6 to 51.4 %)",
        ),
        (
            Accuracy.measured(0.5, 60, independent=False),
            "measured on the 60 images that also chose this network: expect less (95 % interval 37.7 to 62.3 %)",
        ),
        (
            Accuracy(0.5, "predicted", 0, True, 0.4, 0.6),
            "predicted from other networks of its supernet that were measured on images that were used for no choice; "
            "this network was not (95 % interval 40.0 to 60.0 %)",
        ),
    ],
)
def test_it_is_said_in_plain_words(accuracy: Accuracy, said: str) -> None:
    assert in_words(accuracy) == said

"""What fine-tuning keeps, begins with and refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from elasticvit.accuracy.evaluate import recalibrate
from elasticvit.data.image_set import ImageSet, Split, digits
from elasticvit.errors import DataError
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card
from elasticvit.training.finetune.report import NetworkReport, linear_probe, report_on
from elasticvit.training.finetune.run import image_name
from elasticvit.training.finetune.transfer import (
    check_images,
    combined_terms,
    few_held,
    supernet_with_classes,
    transfer_recipe,
    with_classes,
)
from tests.elasticvit.training.tiny_training import tiny_space


def _images(train: list[int], search: list[int], classes: int, *, black: bool = False) -> ImageSet:
    """Images of one grey each, or black, with these labels."""
    first, second = (
        Split(
            torch.arange(len(labels))
            .remainder(1 if black else 256)
            .to(torch.uint8)
            .view(-1, 1, 1, 1)
            .repeat(1, 3, 8, 8),
            torch.tensor(labels, dtype=torch.int64),
        )
        for labels in (train, search)
    )
    return ImageSet("mine", tuple(f"class{i}" for i in range(classes)), first, second, second)


def test_only_the_last_layer_is_new_and_nothing_is_shared() -> None:
    supernet = SuperNet(tiny_space())
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    fresh = supernet_with_classes(supernet, 3)
    assert fresh.space == tiny_space(3)
    for name, tensor in fresh.state_dict().items():
        if ".classify." in name:
            assert tensor.shape[0] == 3 and not tensor.any()
        else:
            assert torch.equal(tensor, before[name])
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_cutting_and_new_classes_may_come_in_either_order() -> None:
    supernet, images = SuperNet(tiny_space()).eval(), torch.randn(2, 3, 32, 32)
    arch = tiny_space().smallest()
    one, other = with_classes(supernet.extract(arch), 4), supernet_with_classes(supernet, 4).extract(arch)
    assert isinstance(one, Net) and one.arch == other.arch and not one.training
    for (name, tensor), (there, same) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert name == there and torch.equal(tensor, same)
    assert one(images).shape == (2, 4)
    assert all(parameter.requires_grad for parameter in one.parameters())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_images([0] * 20, [0] * 2, 1), "1 class"),
        (_images([0] * 20 + [1], [0] * 2, 3), "'class1', 'class2'"),
        (_images([0, 0, 1, 1], [], 2), "10 or more"),
        (_images([0, 0, 1, 1], [0, 1], 2, black=True), "all 4 training images of mine look the same"),
    ],
)
def test_images_that_cannot_be_learnt_are_refused(data: ImageSet, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_images(data)


def test_images_that_can_be_learnt_are_not_refused_but_few_are_mentioned() -> None:
    check_images(digits())
    assert list(few_held(digits())) == []
    few = _images([0, 0, 1, 1], [0, 1], 2)
    check_images(few)
    compared, reported = few_held(few)
    assert "each is worth 50.0%" in compared and "95 % intervals are up to" in reported


def test_a_recipe_fits_the_number_of_images() -> None:
    few = transfer_recipe("a", tiny_space(2), _images([0, 1] * 5, [0], 2))
    assert few.batch == 10 and few.optim.warmup < few.steps == 300
    some = transfer_recipe("a", tiny_space(), digits())
    assert some.batch == 32 and 20 < some.steps * some.batch / len(digits().train) < 40
    many = transfer_recipe("a", tiny_space(2), _images([0, 1] * 20_000, [0], 2), flip=False)
    assert many.batch == 64 and many.steps == 6000 and not many.augment.flip
    chosen = transfer_recipe("a", tiny_space(), digits(), steps=7, lr=0.5, seed=3)
    assert (chosen.steps, chosen.optim.lr, chosen.seed) == (7, 0.5, 3)


def test_terms_of_both_hold() -> None:
    base, data = Card("base", (), "x", terms="Research only."), replace(digits(), terms="Name the photographers.")
    assert combined_terms(replace(base, terms=None), digits()) is None
    assert combined_terms(base, digits()) == "Research only."
    assert combined_terms(replace(base, terms=None), data) == "Name the photographers."
    both = combined_terms(base, data)
    assert both is not None and "Research only." in both and "Name the photographers." in both
    # Fine-tuned again with the same images.
    assert combined_terms(replace(base, terms=both), data) == both


def test_a_card_names_folders_so_that_they_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "flowers").mkdir()
    monkeypatch.chdir(tmp_path)
    assert image_name("mine", 48) == f"{tmp_path}/mine@48"
    assert image_name("mine@32", 48) == f"{tmp_path}/mine@32"
    assert image_name("flowers", 48) == "flowers"
    assert image_name("./flowers", 48) == f"{tmp_path}/flowers@48"
    assert image_name("tiny-imagenet:20", 48) == "tiny-imagenet:20"
    assert image_name("nowhere", 48) == "nowhere"


@pytest.mark.medium
def test_a_linear_probe_separates_real_labels_from_random_ones() -> None:
    torch.manual_seed(0)
    net = SuperNet(tiny_space()).extract(tiny_space().largest())
    data = digits()
    shuffled = data.train.labels[torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))]
    assert linear_probe(net, data) > 0.5
    assert linear_probe(net, replace(data, train=Split(data.train.images, shuffled))) < 0.25


def test_a_probe_of_constant_features_answers_like_chance() -> None:
    """Constant images make features that are constant but for rounding, and huge where a norm divides by no spread."""
    net = SuperNet(tiny_space()).extract(tiny_space().smallest())
    grey = torch.full((20, 3, 32, 32), 77, dtype=torch.uint8)
    split = Split(grey, torch.arange(20) % 2)
    data = ImageSet("grey", ("a", "b"), split, split, split)
    assert linear_probe(recalibrate(net, data.scaled(grey)), data) == 0.5


@pytest.mark.medium
def test_a_network_is_evaluated_on_three_splits() -> None:
    net = with_classes(SuperNet(tiny_space()).extract(tiny_space().smallest()), 10)
    data = digits()
    measured = report_on(net, data, probe=0.5)
    # With a last layer of zeros the answer is always the first class.
    for top1, labels in ((measured.search, data.search.labels), (measured.val, data.val.labels)):
        assert top1 == pytest.approx(float((labels == 0).double().mean()))
    assert measured.train == pytest.approx(float((data.train.labels[:512] == 0).double().mean()))
    assert measured.search_error == pytest.approx(0.0163, abs=0.001)


def test_warnings_appear_only_with_a_reason() -> None:
    fine = NetworkReport(probe=0.5, train=0.8, search=0.75, search_error=0.03, val=0.74, val_error=0.02)
    assert not list(fine.doubts())
    (worse,) = replace(fine, probe=0.9).doubts()
    assert "90.0%" in worse and "75.0%" in worse
    (overfitted,) = replace(fine, train=0.95).doubts()
    assert "95.0%" in overfitted

"""Images that stand in for training images: they give sub-networks the statistics that those give, and carry over."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elasticvit.accuracy.evaluate import (
    RECALIBRATION_IMAGES,
    calibration_images,
    known_accuracy,
    recalibrate,
    recalibrated,
)
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.accuracy.value import Accuracy
from elasticvit.data.image_set import digits
from elasticvit.errors import DataError
from elasticvit.nn.net import Net, randomise_norms
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, LoadedSuperNet, load_supernet, save_supernet
from elasticvit.pretrained.calibration_images import make_calibration_images, photo_crops, statistics_of
from elasticvit.pretrained.pack import pack
from tests.elasticvit.training.tiny_training import tiny_space

K, STEPS = 24, 60


def _supernet() -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(tiny_space())
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    return supernet.eval()


@pytest.fixture(scope="module")
def made() -> Tensor:
    return make_calibration_images(_supernet(), digits(), k=K, steps=STEPS)


def _far(net: Net, images: Tensor) -> float:
    """How far a network, recalibrated on images, is from the one that was recalibrated on training images."""
    data = digits()
    scaled, right = data.scaled(data.search.images[:64]), data.scaled(data.train.images[:RECALIBRATION_IMAGES])
    with torch.inference_mode():
        expected = recalibrate(net, right)(scaled)
        logits = recalibrate(net, data.scaled(images))(scaled)
    return float((logits - expected).norm() / expected.norm())


@pytest.mark.medium
def test_they_are_bytes_and_always_the_same(made: Tensor) -> None:
    assert made.dtype == torch.uint8 and made.shape == (K, 3, 32, 32)
    few = [make_calibration_images(_supernet(), digits(), k=4, steps=2, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(few[0], few[1]) and not torch.equal(few[0], few[2])
    with pytest.raises(DataError, match="2 images or more"):
        make_calibration_images(_supernet(), digits(), k=1, steps=1)


@pytest.mark.medium
def test_networks_come_out_nearly_as_from_training_images(made: Tensor) -> None:
    """Much nearer than from photographs, also networks that nothing was fitted to."""
    supernet, space = _supernet(), tiny_space()
    crops = make_calibration_images(supernet, digits(), k=K, steps=0)
    archs = [space.smallest(), space.largest(), space.decode(space.sample(np.random.default_rng(9), 1)[0])]
    for arch in archs:
        assert _far(supernet.extract(arch), made) < 0.5 * _far(supernet.extract(arch), crops)


@pytest.mark.medium
def test_the_photographs_are_cut_in_all_sizes() -> None:
    crops = photo_crops(6, 32, np.random.default_rng(0))
    assert crops.shape == (6, 3, 32, 32) and crops.dtype == torch.uint8
    assert all(crop.float().std() > 5 for crop in crops)


@pytest.mark.medium
def test_statistics_are_those_that_a_norm_sees() -> None:
    """Against the mean and variance that recalibration leaves in every norm."""
    net, images = _supernet().extract(tiny_space().largest()).train(), torch.randn(16, 3, 32, 32)
    statistics = statistics_of(net, images)
    norms = [m for m in recalibrate(net, images).modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert len(statistics.means) == len(norms) > 20
    for mean, var, norm in zip(statistics.means, statistics.variances, norms, strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        assert torch.allclose(mean, norm.running_mean, atol=1e-4)
        assert torch.allclose(var, norm.running_var, rtol=0.1, atol=1e-4)  # recalibration divides by n - 1


def _saved(folder: Path, calibration: Tensor | None) -> LoadedSuperNet:
    card = Card("tiny", tuple("0123456789"), "digits")
    save_supernet(folder / "tiny.safetensors", _supernet(), card, calibration=calibration)
    return load_supernet(folder / "tiny.safetensors")


@pytest.mark.medium
def test_carried_images_recalibrate_with_and_without_data(tmp_path: Path, made: Tensor) -> None:
    carrying, arch = _saved(tmp_path, made), tiny_space().smallest()
    assert torch.equal(calibration_images(carrying, None), digits().scaled(made))
    nets = [recalibrated(carrying, arch, data) for data in (None, digits())]
    nets.append(recalibrate(carrying.extract(arch), digits().scaled(made)))
    states = [net.state_dict() for net in nets]
    assert all(torch.equal(states[0][name], state[name]) for state in states[1:] for name in state)


@pytest.mark.medium
def test_without_carried_images_training_images_are_needed(tmp_path: Path) -> None:
    bare, arch = _saved(tmp_path, None), tiny_space().smallest()
    with pytest.raises(DataError, match="elasticvit pack"):
        recalibrated(bare, arch)
    expected = recalibrate(bare.extract(arch), digits().scaled(digits().train.images[:RECALIBRATION_IMAGES]))
    state = recalibrated(bare, arch, digits()).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.state_dict().items())


@pytest.mark.medium
def test_accuracy_is_measured_where_it_can_be_and_predicted_elsewhere(made: Tensor, tmp_path: Path) -> None:
    supernet, space = _saved(tmp_path, made), tiny_space()
    codes = np.unique(space.sample(np.random.default_rng(0), 200), axis=0)
    table = AccuracyTable(space, codes[:12], np.linspace(0.4, 0.6, 12), 100)
    inside, outside = (recalibrated(supernet, space.decode(codes[at])) for at in (3, 20))
    card = supernet.card
    known = known_accuracy(inside, card, space, table, None)
    assert known == Accuracy.measured(float(table.top1[3]), 100, independent=False), "these images chose"
    for net in (inside, outside):
        measured = known_accuracy(net, card, space, table, digits())
        assert measured is not None and (measured.source, measured.images) == ("measured", len(digits().val))
        assert measured.independent is None, "the card does not say which images were what"
    predicted = known_accuracy(outside, card, space, table, None)
    assert predicted is not None and (predicted.source, predicted.images) == ("predicted", 0)
    assert predicted.value == pytest.approx(0.5, abs=0.2) and predicted.independent is False
    assert known_accuracy(outside, card, space, None, None) is None


@pytest.mark.medium
def test_a_table_with_accuracies_on_images_that_chose_nothing_tells_those(made: Tensor, tmp_path: Path) -> None:
    supernet, space = _saved(tmp_path, made), tiny_space()
    codes = np.unique(space.sample(np.random.default_rng(0), 200), axis=0)
    val = np.linspace(0.3, 0.5, 12)
    table = AccuracyTable(space, codes[:12], np.linspace(0.4, 0.6, 12), 100, val, 200, val_independent=True)
    inside, outside = (recalibrated(supernet, space.decode(codes[at])) for at in (3, 20))
    for data in (None, digits()):
        known = known_accuracy(inside, supernet.card, space, table, data)
        assert known == Accuracy.measured(float(val[3]), 200, independent=True)
    predicted = known_accuracy(outside, supernet.card, space, table, None)
    assert predicted is not None and predicted.independent is True
    assert predicted.value == pytest.approx(0.4, abs=0.12), "shifted to what the images say that chose nothing"
    assert predicted.lower is not None and predicted.upper is not None
    assert predicted.lower < 0.4 < predicted.upper


@pytest.mark.medium
def test_a_packed_file_is_small_and_carries_terms_images_and_how_they_were_made(tmp_path: Path) -> None:
    supernet = _saved(tmp_path, None)
    written = pack(tmp_path / "tiny.safetensors", tmp_path / "packed.safetensors", k=4, steps=1, seed=3)
    packed = load_supernet(tmp_path / "packed.safetensors")
    assert packed.calibration is not None and packed.calibration.shape == (4, 3, 32, 32)
    assert packed.card.provenance["calibration"] == {"images": 4, "steps": 1, "seed": 3} == written["calibration"]
    assert packed.card.terms == digits().terms
    name = "net.head.hidden.weight"
    assert torch.equal(packed.state_dict()[name], supernet.state_dict()[name].half().float())
    stated = replace(supernet.card, terms="mine")
    save_supernet(tmp_path / "stated.safetensors", supernet, stated)
    assert pack(tmp_path / "stated.safetensors", tmp_path / "x.safetensors", k=2, steps=0)["terms"] == "mine"


@pytest.mark.medium
def test_they_are_made_for_images_scaled_by_the_cards_mean_and_std(tmp_path: Path) -> None:
    card = Card("tiny", digits().class_names, "digits", mean=(0.1, 0.2, 0.3), std=(0.4, 0.3, 0.2))
    save_supernet(tmp_path / "tiny.safetensors", _supernet(), card)
    pack(tmp_path / "tiny.safetensors", tmp_path / "packed.safetensors", k=4, steps=3, seed=1)
    as_its_own = replace(digits(), mean=card.mean, std=card.std)
    carried = load_supernet(tmp_path / "packed.safetensors").calibration
    assert carried is not None
    for data, same in ((as_its_own, True), (digits(), False)):
        made = make_calibration_images(_supernet(), data, k=4, steps=3, seed=1)
        assert torch.equal(carried, made) is same

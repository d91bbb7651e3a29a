"""Recalibration against statistics computed by hand, evaluation against known answers."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from elasticvit.accuracy.evaluate import (
    EVALUATED_TOGETHER,
    accuracy_of,
    evaluate,
    held_out_accuracy,
    recalibrate,
    recalibrated,
)
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import small
from elasticvit.data.image_set import ImageSet, digits
from elasticvit.errors import DataError, SpaceError
from elasticvit.nn.net import Net, randomise_norms
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.finetune.report import COMPARED, PROBED, linear_probe, report_on
from elasticvit.training.loop import fresh_supernet
from tests.elasticvit.training.tiny_training import tiny_recipe, tiny_space


def _net(arch: Arch | None = None) -> Net:
    torch.manual_seed(0)
    net = Net(arch or tiny_space().largest())
    randomise_norms(net, torch.Generator().manual_seed(1))
    return net.eval()


def _statistics(net: Net) -> tuple[Tensor, Tensor]:
    """Mean and variance that the first norm keeps."""
    mean, var = net.first_conv.bn.running_mean, net.first_conv.bn.running_var
    assert mean is not None and var is not None
    return mean, var


def _supernet() -> SuperNet:
    return fresh_supernet(tiny_recipe()).eval()


def test_one_batch_gives_its_own_statistics() -> None:
    images = torch.randn(32, 3, 32, 32)
    net = recalibrate(_net(), images)
    with torch.no_grad():
        maps = net.first_conv.conv(images)
    mean, var = _statistics(net)
    assert torch.allclose(mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(var, maps.var((0, 2, 3)), rtol=1e-4)
    assert not net.training


def test_the_whole_network_then_answers_as_on_that_batch() -> None:
    """Also the deep norms: an eval pass differs from a training pass only by the n / (n - 1) of variances."""
    images = torch.randn(256, 3, 32, 32)
    net = recalibrate(_net(), images, batch=256)
    with torch.no_grad():
        alone, together = net(images), net.train()(images)
    assert (alone - together).abs().mean() < 0.03 * together.std()


def test_batches_count_alike_and_a_rest_is_left_out() -> None:
    images = torch.randn(35, 3, 32, 32)
    net = recalibrate(_net(), images, batch=16)
    with torch.no_grad():
        maps = [net.first_conv.conv(images[at : at + 16]) for at in (0, 16)]
    mean, var = _statistics(net)
    assert torch.allclose(mean, (maps[0].mean((0, 2, 3)) + maps[1].mean((0, 2, 3))) / 2, atol=1e-5)
    assert torch.allclose(var, (maps[0].var((0, 2, 3)) + maps[1].var((0, 2, 3))) / 2, rtol=1e-4)


def test_recalibration_forgets_what_was_there_and_changes_no_weight() -> None:
    images = torch.randn(16, 3, 32, 32)
    net = recalibrate(_net(), images)
    once = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    again = recalibrate(net, images).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())
    weights = dict(_net().named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert {m.momentum for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_one_image_is_too_few() -> None:
    with pytest.raises(DataError, match="2 images or more"):
        recalibrate(_net(), torch.randn(1, 3, 32, 32))


def test_top1_counts_right_answers() -> None:
    net = _net()
    with torch.no_grad():
        net.head.classify.weight.zero_()
        net.head.classify.bias.copy_(torch.arange(10) == 3)
    labels = torch.tensor([3, 3, 0, 1, 3])
    for batch in (1, 2, 128):
        assert evaluate(net, torch.randn(5, 3, 32, 32), labels, batch) == pytest.approx(0.6)
    with pytest.raises(DataError):
        evaluate(net, torch.empty(0, 3, 32, 32), labels[:0])


@pytest.mark.medium
def test_images_become_numbers_batch_by_batch() -> None:
    """A split may be larger than memory: mapped bytes are scaled in batches, in every way of measuring."""
    seen = list[int]()

    @dataclass(frozen=True, eq=False)
    class Counted(ImageSet):
        def scaled(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return super().scaled(images)

    known = digits()
    data = Counted(known.name, known.class_names, known.train, known.search, known.val)
    net = _net().eval()
    held_out_accuracy(net, None, data, "search")
    report_on(net, data, linear_probe(net, data))
    assert max(seen) == EVALUATED_TOGETHER < len(data.search)
    assert sum(seen) == 3 * len(data.search) + len(data.val) + min(PROBED, len(data.train)) + COMPARED


@pytest.mark.medium
def test_measuring_changes_nothing_in_the_supernet_and_repeats_exactly() -> None:
    supernet, arch = _supernet(), tiny_space().smallest()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    net, accuracy = recalibrated(supernet, arch, digits()), accuracy_of(supernet, arch, digits())
    accuracy_of(supernet, tiny_space().largest(), digits())
    assert accuracy_of(supernet, arch, digits()) == accuracy
    assert (accuracy.source, accuracy.images, accuracy.independent) == ("measured", len(digits().val), True)
    assert all(torch.equal(tensor, supernet.state_dict()[name]) for name, tensor in before.items())
    assert not net.training
    assert evaluate(net, digits().scaled(digits().val.images), digits().val.labels) == accuracy.value
    assert accuracy_of(supernet, arch, digits(), "search").independent is False


def test_an_arch_outside_the_space_is_refused() -> None:
    with pytest.raises(SpaceError):
        accuracy_of(_supernet(), small().smallest(), digits())

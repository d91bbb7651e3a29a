"""The check of a file where logits are much smaller than the terms that they are sums of."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from elasticvit.archs.space import small
from elasticvit.errors import ExportError
from elasticvit.export import export_net
from elasticvit.export.converters.convert import check_file
from elasticvit.export.converters.pt2 import write_pt2
from elasticvit.export.file_kinds import Format
from elasticvit.export.graph.fold import fold
from elasticvit.export.input_form import InputForm
from elasticvit.export.precision import Precision
from elasticvit.export.quantize.calibration_set import CalibrationSet
from elasticvit.export.quantize.try_precision import LARGEST_DIFFERENCE, difference
from elasticvit.export.tflite.check import TOLERANCE, check, relative_difference, run_tflite
from elasticvit.export.tflite.number_formats import FLOAT32, float16
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = small().smallest().resolution


def _checked_image() -> Tensor:
    """The first image that `check` takes, as the network sees it."""
    image = np.random.default_rng(0).uniform(-1, 1, (1, SIDE, SIDE, 3)).astype(np.float32)
    return torch.from_numpy(image).permute(0, 3, 1, 2)


def _net(classes: int, logit: float = 1e-4, seed: int = 0) -> Net:
    """A network whose logits of that image are `logit`, -2 `logit`, … although their terms are of the order of one."""
    net = random_net(replace(small().smallest(), classes=classes), seed)
    with torch.inference_mode():
        # As large as the terms of networks that were fine-tuned for a few steps.
        net.head.classify.weight.mul_(4)
        signs = torch.tensor([1.0, -2.0, 3.0, -4.0])[:classes]
        net.head.classify.bias.add_(logit * signs - net(_checked_image())[0])
    return net


@pytest.mark.medium
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_sound_network_with_logits_near_zero_is_exported(classes: int) -> None:
    refused_before = 0
    for seed in range(4):
        net = _net(classes, seed=seed)
        exported = export_net(net, None)
        image = _checked_image().permute(0, 2, 3, 1).contiguous().numpy()
        with torch.inference_mode():
            expected = net(_checked_image()).double().numpy()
        refused_before += relative_difference(run_tflite(exported.tflite, image), expected) > TOLERANCE
    assert refused_before > 0, "float32 rounding is above the relative tolerance for some of them"


@pytest.mark.medium
def test_a_network_of_equal_logits_is_exported() -> None:
    net = random_net(replace(small().smallest(), classes=2), seed=0)
    with torch.inference_mode():
        net.head.classify.weight.zero_()
        net.head.classify.bias.zero_()
    assert export_net(net, None).manifest.max_relative_difference == 0


def _flip_a_sign(net: Net) -> None:
    weight = net.head.classify.weight
    weight[0, weight[0].abs().argmax()] *= -1


def _change_an_early_weight(net: Net) -> None:
    net.first_conv.conv.weight[0, 0, 0, 0] += 0.1


def _change_a_bias(net: Net) -> None:
    net.head.classify.bias[0] += 1e-4


def _swap_classes(net: Net) -> None:
    for tensor in (net.head.classify.weight, net.head.classify.bias):
        tensor.copy_(tensor.flip(0))


def _forget_a_weight(net: Net) -> None:
    net.head.hidden.weight[1, 1] = 0


@pytest.mark.medium
@pytest.mark.parametrize(
    "damage", [_flip_a_sign, _change_an_early_weight, _change_a_bias, _swap_classes, _forget_a_weight]
)
def test_a_wrong_file_of_such_a_network_is_refused(damage: Callable[[Net], None]) -> None:
    net, wrong = _net(2), _net(2)
    with torch.inference_mode():
        damage(wrong)
    with pytest.raises(ExportError, match=r"differ from the network's by .* times its rounding error"):
        check(write_tflite(fold(wrong)).data, net)
    check(write_tflite(fold(wrong)).data, wrong)


@pytest.mark.medium
def test_a_file_of_nan_is_refused() -> None:
    net, wrong = _net(2), _net(2)
    with torch.inference_mode():
        wrong.head.classify.bias[0] = torch.finfo(torch.float32).max
        wrong.head.classify.weight[0].fill_(torch.finfo(torch.float32).max)
    with pytest.raises(ExportError, match=r"differ from the network's by (nan|inf)"):
        check(write_tflite(fold(wrong)).data, net)


@pytest.mark.medium
def test_one_image_with_logits_near_zero_does_not_refuse_a_precision() -> None:
    net = _net(2)
    exact, half = (write_tflite(fold(net), number_formats=formats).data for formats in (FLOAT32, float16(fold(net))))
    # The first is the image with logits near zero; brighter images are far from it.
    images = torch.cat([_checked_image() * scale for scale in (1.0, 0.2, 2.0, 4.0)])
    relative = difference(exact, half, Precision.FLOAT16, SIDE, CalibrationSet(images), InputForm())
    assert relative > LARGEST_DIFFERENCE[Precision.FLOAT16]
    with torch.inference_mode():
        _swap_classes(net)
    wrong = write_tflite(fold(net)).data
    for precision in (Precision.FLOAT16, Precision.INT8):
        with pytest.raises(ExportError, match="of their typical length"):
            difference(exact, wrong, precision, SIDE, CalibrationSet(images), InputForm())


@pytest.mark.long
@pytest.mark.medium
def test_other_formats_are_checked_alike() -> None:
    net = _net(2)
    data = write_pt2(net, "{}")
    check_file(data, net, None, Format.PT2)
    for damage in (_flip_a_sign, _change_a_bias):
        wrong = _net(2)
        with torch.inference_mode():
            damage(wrong)
        with pytest.raises(ExportError, match="the pt2 file's logits differ from the network's"):
            check_file(data, wrong, None, Format.PT2)

"""The forms of a file's input: one function, whether the file or its user normalises. The delegate runs it all."""

import math

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from elasticvit import Arch, macs
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.errors import ExportError
from elasticvit.export import InputKind, export_net
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.interpreter import run
from elasticvit.export.graph.ops import Dequantize, Pad, Sub
from elasticvit.export.input_form import InputForm
from elasticvit.export.tflite.check import TOLERANCE, check, run_tflite
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet_file import Card

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CARD = Card("tiny", tuple("abcdefghij"), "digits", mean=MEAN, std=STD)
PIXEL_KINDS = (InputKind.PIXELS, InputKind.UINT8)


@pytest.fixture(scope="module")
def net() -> Net:
    return random_net(small().smallest(), seed=3)


def _form(kind: InputKind) -> InputForm:
    return InputForm(kind, MEAN, STD)


def _archs() -> list[Arch]:
    codes = small().sample(np.random.default_rng(7), len(small().resolutions))
    codes[:, 0] = np.arange(len(small().resolutions))
    return [small().decode(code) for code in codes]


@pytest.mark.medium
@pytest.mark.parametrize("kind", InputKind)
def test_folding_is_exact_in_float64(kind: InputKind) -> None:
    for seed, arch in enumerate(_archs()):
        double = random_net(arch, seed).double()
        images = _form(kind).random(np.random.default_rng(seed), 1, arch.resolution)
        images = images if kind is InputKind.UINT8 else images.astype(np.float64)
        with torch.inference_mode():
            expected = double(torch.from_numpy(_form(kind).normalised(images)).permute(0, 3, 1, 2)).numpy()
        logits = run(fold(double, np.float64, _form(kind)), images)
        assert logits.dtype == np.float64
        assert np.linalg.norm(logits - expected) <= 1e-13 * np.linalg.norm(expected)


@pytest.mark.medium
@pytest.mark.parametrize("kind", InputKind)
def test_the_file_is_the_network(kind: InputKind) -> None:
    for seed, arch in enumerate(_archs()):
        net = random_net(arch, seed)
        assert check(write_tflite(fold(net, form=_form(kind))).data, net, _form(kind)) <= TOLERANCE


@pytest.mark.parametrize("kind", PIXEL_KINDS)
def test_the_border_is_padded_with_the_mean(kind: InputKind, net: Net) -> None:
    # A mean in the bias would be right inside and wrong along the edges, which is where these images differ.
    edges = np.full((1, 32, 32, 3), 255, np.uint8)
    edges[:, 1:, 1:] = 0
    images = edges if kind is InputKind.UINT8 else edges.astype(np.float32)
    data = write_tflite(fold(net, form=_form(kind))).data
    normalised = ((edges / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(normalised).permute(0, 3, 1, 2)).numpy()
    logits = run_tflite(data, images)
    assert np.linalg.norm(logits - expected) <= TOLERANCE * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", InputKind)
def test_one_delegate_takes_everything(kind: InputKind, net: Net) -> None:
    result = export_net(net, CARD, input=kind)
    interpreter = Interpreter(model_content=result.tflite, num_threads=1)
    interpreter.allocate_tensors()
    after = interpreter._get_ops_details()[len(result.ops) :]
    assert [op["op_name"] for op in after] == ["DELEGATE"]
    (image,) = interpreter.get_input_details()
    assert image["dtype"] == (np.uint8 if kind is InputKind.UINT8 else np.float32)
    assert image["quantization"] == ((1.0, 0) if kind is InputKind.UINT8 else (0.0, 0))


def test_what_each_form_adds(net: Net) -> None:
    begins = {kind: [type(op) for op in fold(net, form=_form(kind)).ops[:3]] for kind in InputKind}
    assert begins[InputKind.NORMALISED][0] is Pad
    assert begins[InputKind.PIXELS][:2] == [Sub, Pad]
    assert begins[InputKind.UINT8] == [Dequantize, Sub, Pad]
    for kind in InputKind:
        assert sum(op.macs for op in fold(net, form=_form(kind)).ops) == macs(net.arch)


@pytest.mark.parametrize("kind", InputKind)
def test_the_manifest_has_the_input_form(kind: InputKind, net: Net) -> None:
    image = export_net(net, CARD, input=kind).manifest.input
    assert (image.kind, image.mean, image.std) == (kind, MEAN, STD)
    assert image.dtype == ("uint8" if kind is InputKind.UINT8 else "float32")
    if kind is InputKind.NORMALISED:
        assert image.range == pytest.approx((-0.485 / 0.229, (1 - 0.406) / 0.225))
    else:
        assert image.range == (0, 255)


def test_images_of_another_input_form_are_refused(net: Net) -> None:
    data = write_tflite(fold(net, form=_form(InputKind.PIXELS))).data
    with pytest.raises(ExportError, match=r"logits differ from the network's by"):
        check(data, net, _form(InputKind.NORMALISED))


@pytest.mark.parametrize("std", [(0.2, 0.0, 0.2), (0.2, -1.0, 0.2), (0.2, math.nan, 0.2), (0.2, math.inf, 0.2)])
def test_a_normalisation_that_is_none_is_refused(std: tuple[float, float, float], net: Net) -> None:
    with pytest.raises(ExportError, match="std has to be above 0"):
        fold(net, form=InputForm(InputKind.PIXELS, MEAN, std))


@pytest.mark.medium
@pytest.mark.parametrize("kind", PIXEL_KINDS)
def test_published_s1(kind: InputKind) -> None:
    s1 = random_net(published("S1"), seed=0)
    assert check(write_tflite(fold(s1, form=_form(kind))).data, s1, _form(kind), images=1) <= TOLERANCE

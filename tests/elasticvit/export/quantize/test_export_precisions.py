"""The precisions of a file: what they hold, how far they are from float32, and when they are refused."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping, quantizer

from elasticvit import macs
from elasticvit.accuracy.intervals import newcombe_paired
from elasticvit.archs.space import small
from elasticvit.errors import ExportError
from elasticvit.export import Exported, export_net
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.interpreter import run
from elasticvit.export.graph.ops import HardSwish
from elasticvit.export.input_form import InputKind
from elasticvit.export.precision import Precision
from elasticvit.export.quantize.calibration_set import CalibrationSet, HeldOut, random_calibration_set
from elasticvit.export.quantize.hard_swish import without_hard_swish
from elasticvit.export.quantize.ranges import LEAST, widened
from elasticvit.export.quantize.recipe import AccuracyDrop, QuantizationRecipe
from elasticvit.export.quantize.static_int8 import static_int8
from elasticvit.export.tflite.check import run_tflite
from elasticvit.export.tflite.flatbuffer import Generated
from elasticvit.export.tflite.metadata import read_metadata
from elasticvit.export.tflite.number_formats import dynamic_int8, float16, group, groups_of, to_float16, to_int8
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet_file import Card

pytestmark = pytest.mark.usefixtures("one_thread")
CARD = Card("tiny", tuple("abcdefghij"), "somewhere/digits")
QUANTISED = [precision for precision in Precision if precision is not Precision.FLOAT32]


@pytest.fixture(scope="module")
def net() -> Net:
    return random_net(small().smallest(), seed=3)


@pytest.fixture(scope="module")
def calibration_set() -> CalibrationSet:
    # Smooth images, to which even a random network gives different answers.
    small_ones = torch.randn(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(small_ones, size=32, mode="bilinear")
    return CalibrationSet(random_calibration_set(32).calibration, HeldOut(images, torch.arange(200) % 10, "digits"))


@pytest.fixture(scope="module")
def float32(net: Net) -> Exported:
    return export_net(net, CARD)


@pytest.mark.medium
def test_float16_halves_the_file_and_keeps_the_answers(net: Net, float32: Exported) -> None:
    half = export_net(net, CARD, precision=Precision.FLOAT16)
    assert len(half.tflite) < 0.53 * len(float32.tflite)
    assert half.manifest.precision == "float16" and half.manifest.max_relative_difference < 5e-3
    kinds = {op.name for op in half.ops if op.builtin == "DEQUANTIZE"}
    assert {f"{op.name}/weight" for op in fold(net).ops if hasattr(op, "weight")} <= kinds


def test_weights_beyond_float16_are_refused() -> None:
    with pytest.raises(ExportError, match=r"vit0/x holds 7e\+04, more than float16"):
        to_float16("vit0/x", np.array([1.0, 7e4], np.float32))


def test_int8_rounds_to_the_nearest_step_of_each_channel() -> None:
    weight = np.array([[127.0, -63.4], [0.0, 0.0], [1e-3, 5e-4]], np.float32)
    rounded, quantization = to_int8(weight)
    assert rounded.tolist() == [[127, -63], [0, 0], [127, 64]]
    assert np.allclose(quantization.scale, [1.0, 1.0, 1e-3 / 127]) and quantization.zero_point == 0


@pytest.mark.medium
def test_dynamic_int8_has_the_weights_of_the_ai_edge_quantizer(net: Net) -> None:
    graph = fold(net)
    groups = frozenset(name for name in groups_of(graph) if name.startswith("head/"))
    ours = write_tflite(graph, number_formats=dynamic_int8(graph, groups)).data
    oracle = quantizer.Quantizer(bytearray(write_tflite(graph).data))
    tensor_config = qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    )
    oracle.update_quantization_recipe(
        regex=".*head.*|.*logits.*",
        operation_name=qtyping.TFLOperationName.FULLY_CONNECTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=tensor_config, compute_precision=qtyping.ComputePrecision.INTEGER
        ),
    )
    theirs = bytes(oracle.quantize().quantized_model)
    weights, expected = _int8_weights(ours), _int8_weights(theirs)
    assert set(weights) == set(expected) == {f"head/{name}/weight" for name in ("expand", "hidden", "logits")}
    for name, (data, scale) in weights.items():
        assert np.array_equal(data, expected[name][0]), name
        assert np.array_equal(scale, expected[name][1]), name
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    assert np.array_equal(run_tflite(ours, images), run_tflite(theirs, images))


@pytest.mark.medium
def test_a_recipe_s_groups_and_no_others_become_int8(net: Net) -> None:
    recipe = QuantizationRecipe("mine", 3, "small", {}, ("vit1/ffn/expand", "head/logits"))
    exported = export_net(net, CARD, precision=Precision.DYNAMIC_INT8, recipe=recipe)
    names = {name.removesuffix("/weight") for name in _int8_weights(exported.tflite)}
    assert {group(name) for name in names} == set(recipe.groups)
    assert names == {op.name for op in fold(net).ops if group(op.name) in recipe.groups}
    used = exported.manifest.recipe
    assert used is not None and (used.name, used.version) == ("mine", "3")


def test_group_names_omit_the_layer_number() -> None:
    assert group("vit2/layer1/ffn/expand") == "vit2/ffn/expand"
    assert group("conv0/block2/project") == "conv0/project"
    assert group("head/logits") == "head/logits"


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(3))
def test_a_rewritten_hard_swish_is_equal_in_float64(seed: int) -> None:
    arch = small().decode(small().sample(np.random.default_rng(seed), 1)[0])
    graph = fold(random_net(arch, seed).double(), np.float64)
    rewritten = without_hard_swish(graph)
    assert not any(isinstance(op, HardSwish) for op in rewritten.ops)
    image = np.random.default_rng(seed).uniform(-1, 1, graph.input.shape)
    expected = run(graph, image)
    assert np.linalg.norm(run(rewritten, image) - expected) <= 1e-13 * np.linalg.norm(expected)


@pytest.mark.medium
def test_int8_is_int8_where_the_work_is(net: Net) -> None:
    exported = export_net(net, None, precision=Precision.INT8)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(exported.tflite))
    graph = model.subgraphs[0]
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex].builtinCode
        kinds = {graph.tensors[tensor].type for tensor in (op.inputs[0], op.outputs[0])}
        if code in _WORK:
            assert kinds == {schema.TensorType.INT8}
    assert macs(net.arch) == tflite_macs(exported.tflite)
    assert {graph.tensors[i].type for i in (*graph.inputs, *graph.outputs)} == {schema.TensorType.FLOAT32}


_WORK = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
    schema.BuiltinOperator.BATCH_MATMUL,
}


@pytest.mark.medium
@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("kind", InputKind)
def test_every_input_form_goes_with_every_precision(
    net: Net, calibration_set: CalibrationSet, precision: Precision, kind: InputKind
) -> None:
    exported = export_net(net, CARD, precision=precision, calibration_set=calibration_set, input=kind)
    assert exported.manifest.input.kind is kind
    assert 0 < exported.manifest.max_relative_difference < 0.2


@pytest.mark.medium
@pytest.mark.parametrize("precision", QUANTISED)
def test_equal_networks_give_equal_bytes(net: Net, calibration_set: CalibrationSet, precision: Precision) -> None:
    first, second = (export_net(net, CARD, precision=precision, calibration_set=calibration_set) for _ in range(2))
    assert first.tflite == second.tflite and first.manifest == second.manifest


@pytest.mark.medium
def test_branches_of_zeros_go_through_int8() -> None:
    # A freshly built network starts its blocks as their shortcuts: what is added is zero on every image.
    torch.manual_seed(7)
    fresh = Net(small().smallest()).eval()
    for precision in (Precision.INT8, Precision.DYNAMIC_INT8):
        exported = export_net(fresh, None, precision=precision)
        assert exported.manifest.max_relative_difference < 0.2


def test_ranges_are_widened_until_scales_go_together(net: Net) -> None:
    graph = without_hard_swish(fold(net))
    ranges = widened(graph, dict.fromkeys((v for op in graph.ops for v in (*op.inputs, *op.outputs)), (0.0, 0.0)))
    assert all(high - low >= LEAST for low, high in ranges.values())
    one = dict(ranges)
    total = next(op for op in graph.ops if op.name.endswith("/sum"))
    one[total.y] = (-50.0, 50.0)
    for low, high in (widened(graph, one)[value] for value in total.inputs):
        assert high - low >= 100 / 512


@pytest.mark.medium
def test_int8_is_the_same_whatever_the_order_of_sums() -> None:
    code = (
        "import hashlib, torch; from elasticvit.export import export_net;"
        "from elasticvit.nn.random_net import random_net;"
        "from elasticvit.export.precision import Precision; from elasticvit.archs.space import small;"
        "net = random_net(small().smallest(), 3);"
        "print(hashlib.sha256(export_net(net, None, precision=Precision.INT8).tflite).hexdigest())"
    )
    seen = set()
    for threads, capability in (("1", "default"), ("2", "avx2")):
        env = os.environ | {"OMP_NUM_THREADS": threads, "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1


def test_per_channel_scales_raise_the_minimum_runtime_version(net: Net) -> None:
    # FULLY_CONNECTED 12 and CONV_2D 5 have a scale for each channel beside float inputs.
    recipe = QuantizationRecipe("mine", 1, "small", {}, ("vit1/ffn/expand", "conv0/expand"))
    exported = export_net(net, CARD, precision=Precision.DYNAMIC_INT8, recipe=recipe)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(exported.tflite))
    used = {(code.builtinCode, code.version) for code in model.operatorCodes}
    assert {(schema.BuiltinOperator.FULLY_CONNECTED, 12), (schema.BuiltinOperator.CONV_2D, 5)} <= used
    assert read_metadata(exported.tflite).min_runtime_version == "2.17.0"


def test_one_calibration_image_is_too_few(net: Net) -> None:
    graph = fold(net)
    with pytest.raises(ExportError, match=r"8 calibration images or more .* got 1"):
        static_int8(graph, [np.zeros((1, 32, 32, 3), np.float32)])


def test_the_error_for_int8_without_images_names_the_remedy(net: Net) -> None:
    with pytest.raises(ExportError, match="elasticvit pack"):
        export_net(net, CARD, precision=Precision.INT8)


@pytest.mark.medium
def test_top1_is_measured_on_held_out_images(net: Net, calibration_set: CalibrationSet, float32: Exported) -> None:
    images = calibration_set.held_out.images.permute(0, 2, 3, 1).contiguous().numpy()  # type: ignore[union-attr]
    exported = export_net(net, CARD, precision=Precision.INT8, calibration_set=calibration_set)
    before, after = (run_tflite(file.tflite, images).argmax(1) == np.arange(200) % 10 for file in (float32, exported))
    change = exported.manifest.top1_change
    assert change is not None and change.images == 200 and change.independent is None
    assert change.source.startswith("measured on images of which it is not known")
    assert change.value == pytest.approx(after.mean() - before.mean())
    counts = [(a & b).sum() for a, b in ((before, after), (before, ~after), (~before, after), (~before, ~after))]
    assert (change.lower, change.upper) == newcombe_paired(*map(int, counts))


@pytest.mark.medium
def test_a_precision_that_costs_too_much_is_refused(
    net: Net, calibration_set: CalibrationSet, float32: Exported
) -> None:
    assert calibration_set.held_out is not None
    images = calibration_set.held_out.images.permute(0, 2, 3, 1).contiguous().numpy()
    exact = torch.from_numpy(run_tflite(float32.tflite, images).argmax(1))
    # Labels by which float32 is always right: whatever int8 answers otherwise is a loss.
    right = replace(calibration_set, held_out=replace(calibration_set.held_out, labels=exact))
    change = export_net(net, CARD, precision=Precision.INT8, calibration_set=right).manifest.top1_change
    assert change is not None and change.value < 0
    with pytest.raises(ExportError, match=r"int8 costs .* of top-1 .*more than the 0\.00% allowed"):
        export_net(net, CARD, precision=Precision.INT8, calibration_set=right, max_accuracy_drop=0.0)
    export_net(net, CARD, precision=Precision.INT8, calibration_set=right, max_accuracy_drop=1.0)


@pytest.mark.medium
def test_without_images_the_drop_of_other_networks_is_used(net: Net) -> None:
    drops = tuple(AccuracyDrop(str(i), Precision.FLOAT16, 500, 0.8, 0.8 - drop) for i, drop in enumerate((0.03, 0.01)))
    recipe = QuantizationRecipe(
        "mine", 1, "small", {}, (), accuracy_drops=drops, evaluated_on={"supernet": "tiny", "sha256": "ab"}
    )
    half = partial(export_net, net, CARD, precision=Precision.FLOAT16, recipe=recipe)
    change = half(supernet_sha256="ab").manifest.top1_change
    assert change is not None and change.value == pytest.approx(-0.02) and "2 other networks of tiny" in change.source
    with pytest.raises(ExportError, match=r"2\.00% of top-1"):
        half(supernet_sha256="ab", max_accuracy_drop=0.01)
    # Another file of the same name is another supernet.
    assert half(supernet_sha256="cd").manifest.top1_change is None and half().manifest.top1_change is None


def test_all_constants_are_packed_in_float16(net: Net) -> None:
    graph = fold(net)
    data = write_tflite(graph, number_formats=float16(graph)).data
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    stored = [t for t in model.subgraphs[0].tensors if model.buffers[t.buffer].data is not None]
    assert not [t.name for t in stored if t.type == schema.TensorType.FLOAT32 and np.prod(t.shape) > 1]


def _int8_weights(data: bytes) -> dict[str, tuple[Generated, Generated]]:
    """By tensor name the int8 constants of a file and their scales."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    weights = {}
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        # Constants lie in the buffer, or, as the quantizer writes them, behind the flatbuffer.
        held = buffer.data if buffer.data is not None else list(data[buffer.offset : buffer.offset + buffer.size])
        if tensor.type == schema.TensorType.INT8 and len(held):
            values = np.asarray(held, np.uint8).view(np.int8)
            weights[tensor.name.decode()] = (values, np.asarray(tensor.quantization.scale))
    return weights

"""Export: the folded graph, the written file and torch compute one function; the file yields costs and blocks."""

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from elasticvit import Arch, macs, params
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.published import published
from elasticvit.archs.space import PRESETS, Space, small
from elasticvit.costs.blocks import blocks
from elasticvit.costs.flops import block_macs
from elasticvit.errors import ExportError
from elasticvit.export import Exported, anchor, export_net
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.interpreter import run
from elasticvit.export.graph.ops import Graph
from elasticvit.export.tflite.check import TOLERANCE, check, run_tflite
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.net import Net, randomise_norms
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card

pytestmark = pytest.mark.usefixtures("one_thread")
CARD = Card("tiny", tuple("abcdefghij"), "digits", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), terms="no resale")


def _archs(space: Space, n: int) -> list[Arch]:
    """Random members whose resolutions go round, so that every grid occurs."""
    codes = space.sample(np.random.default_rng(5), n)
    codes[:, 0] = np.arange(n) % len(space.resolutions)
    return [space.decode(code) for code in codes]


def _supernet(space: Space) -> SuperNet:
    torch.manual_seed(0)
    supernet = SuperNet(space)
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    return supernet.eval()


@pytest.fixture(scope="module")
def net() -> Net:
    return random_net(small().smallest(), seed=3)


@pytest.fixture(scope="module")
def exported(net: Net) -> Exported:
    return export_net(net, CARD, supernet_sha256="ab" * 32, accuracy=Accuracy(0.5))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_file_is_the_network(preset: str) -> None:
    space = PRESETS[preset]()
    supernet = _supernet(space)
    # Sixty of the two spaces, their resolutions in turn.
    for arch in [space.smallest(), *_archs(space, 30)]:
        cut = supernet.extract(arch)
        data = write_tflite(fold(cut)).data
        assert check(data, cut) <= TOLERANCE
        assert tflite_macs(data) == macs(arch)


@pytest.mark.medium
def test_the_file_is_the_network_on_every_grid_of_the_small_space() -> None:
    # Resolution 32 ends on 1×1 grids with a stride-2 reduction from 1×1; 48 has the odd grid 3×3.
    supernet = _supernet(small())
    for arch in _archs(small(), 3):
        cut = supernet.extract(arch)
        assert check(write_tflite(fold(cut)).data, cut) <= TOLERANCE


@pytest.mark.medium
def test_odd_grids_of_the_paper_space() -> None:
    # 176 pixels reach an 11×11 grid that is halved to 6×6, and 3×3 from there.
    space = PRESETS["paper"]()
    code = np.zeros(len(space.dimensions), np.int8)
    code[0] = space.resolutions.index(176)
    odd = random_net(space.decode(code), seed=0)
    assert check(write_tflite(fold(odd)).data, odd) <= TOLERANCE


@pytest.mark.medium
@pytest.mark.parametrize("index", range(3))
def test_folding_is_exact_in_float64(index: int) -> None:
    double = random_net(_archs(small(), 3)[index], seed=index).double()
    graph = fold(double, np.float64)
    images = torch.randn(1, 3, *[double.arch.resolution] * 2, dtype=torch.float64)
    with torch.inference_mode():
        expected = double(images).numpy()
    logits = run(graph, images.permute(0, 2, 3, 1).contiguous().numpy())
    assert np.linalg.norm(logits - expected) <= 1e-13 * np.linalg.norm(expected)


def test_zero_norm_scales_lose_no_part() -> None:
    # A freshly built network starts its blocks as their shortcuts, by scales of zero.
    torch.manual_seed(0)
    fresh = Net(small().smallest()).eval()
    assert not fresh.state_dict()["stem.0.project.bn.weight"].any()
    assert tflite_macs(export_net(fresh, None).tflite) == macs(fresh.arch)


@pytest.mark.medium
@pytest.mark.parametrize("preset", PRESETS)
def test_every_block_has_its_macs_in_graph_and_file(preset: str) -> None:
    arch = _archs(PRESETS[preset](), 1)[0]
    graph = fold(random_net(arch, seed=0))
    for i, block in enumerate(blocks(arch)):
        assert sum(op.macs for op in graph.ops if op.block == i) == block_macs(block), block.key
    file = write_tflite(graph)
    assert tflite_macs(file.data) == sum(op.macs for op in graph.ops) == macs(arch)
    assert sorted({op.block for op in file.ops}) == list(range(len(blocks(arch))))


def test_the_listed_operators_are_in_the_files_order(exported: Exported) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(exported.tflite))
    graph = model.subgraphs[0]
    names = {getattr(schema.BuiltinOperator, op.builtin): op.builtin for op in exported.ops}
    assert [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in graph.operators] == [
        op.builtin for op in exported.ops
    ]
    assert [op.index for op in exported.ops] == list(range(len(graph.operators)))
    made = [graph.tensors[op.outputs[0]].name.decode() for op in graph.operators]
    ours = [f"{op.name}/0" if op.builtin == "SPLIT" else op.name for op in exported.ops]
    assert ours.pop() == "head/logits" and made.pop() == "logits"
    assert made == ours


def test_weights_lie_aligned_and_every_operator_is_delegated(exported: Exported) -> None:
    data = exported.tflite
    model = schema.Model.GetRootAs(data)
    starts = []
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(starts) > 50 and all(start % 16 == 0 for start in starts)
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    after = interpreter._get_ops_details()[len(exported.ops) :]
    assert [op["op_name"] for op in after] == ["DELEGATE"]


def test_names_of_input_and_output(exported: Exported) -> None:
    interpreter = Interpreter(model_content=exported.tflite)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["images"], "outputs": ["logits"]}}
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["name"], tuple(image["shape"]), image["dtype"]) == ("images", (1, 32, 32, 3), np.float32)
    assert (logits["name"], tuple(logits["shape"]), logits["dtype"]) == ("logits", (1, 10), np.float32)


@pytest.mark.medium
def test_the_same_network_gives_the_same_bytes(exported: Exported) -> None:
    again = export_net(random_net(small().smallest(), seed=3), CARD, supernet_sha256="ab" * 32, accuracy=Accuracy(0.5))
    assert again.tflite == exported.tflite
    assert again.manifest.to_json() == exported.manifest.to_json()
    assert export_net(random_net(small().smallest(), seed=4), CARD).tflite != exported.tflite


def test_an_export_does_not_follow_the_network() -> None:
    source = random_net(small().smallest(), seed=3)
    graph = fold(source)
    before = write_tflite(graph).data
    with torch.no_grad():
        for tensor in source.state_dict().values():
            tensor.zero_()
    assert write_tflite(graph).data == before


@pytest.mark.medium
def test_published_s1_with_random_weights() -> None:
    s1 = published("S1")
    result = export_net(random_net(s1, seed=0), None)
    assert result.manifest.macs == tflite_macs(result.tflite) == 221_549_056
    assert result.manifest.params == params(s1) and result.manifest.output.classes == 1000
    assert result.manifest.max_relative_difference <= TOLERANCE
    assert result.manifest.supernet is None and result.manifest.accuracy is None


@pytest.mark.medium
def test_the_anchor_never_changes() -> None:
    # Latencies are relative to this file's on every device. If it changes, all stored references become invalid.
    assert anchor().manifest.sha256 == "c76ffbd3d6b853d82383fa31ff4c8154cbc8746d857d25b6d3d797a7602a3760"
    assert small().contains(anchor().manifest.read_arch())


@pytest.mark.parametrize(
    ("tensor", "value", "named"),
    [
        ("first_conv.bn.running_var", "nan", "first_conv/conv"),
        ("first_conv.bn.running_var", "-1", "first_conv/conv"),
        ("stem.0.project.bn.bias", "nan", "stem/block0/project"),
        ("vit.0.attention.0.norm.bias", "nan", "vit0/layer0/attention/query_key"),
        ("vit.3.attention.0.position_bias", "-inf", "vit3/layer0/attention/position_bias"),
        ("head.classify.weight", "inf", "head/logits"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tensor: str, value: str, named: str) -> None:
    damaged = random_net(small().smallest(), seed=0)
    damaged.state_dict()[tensor].view(-1)[0] = float(value)
    with pytest.raises(ExportError, match=f"weights of {named} are not finite"):
        export_net(damaged, None)


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ExportError, match="training mode"):
        export_net(random_net(small().smallest(), seed=0).train(), None)


@pytest.mark.medium
def test_a_file_of_another_function_is_refused(net: Net, exported: Exported) -> None:
    other = random_net(small().smallest(), seed=4)
    with pytest.raises(ExportError, match=r"logits differ from the network's by"):
        check(exported.tflite, other)
    wider = random_net(small().decode(small().sample(np.random.default_rng(0), 1)[0]), seed=0)
    with pytest.raises(ExportError, match=r"has 1396368 MACs, the architecture \d+"):
        check(exported.tflite, wider)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000])
def test_bytes_that_are_no_model_are_refused(exported: Exported, keep: int) -> None:
    with pytest.raises(ExportError, match=r"no \.tflite file|damaged or truncated"):
        tflite_macs(exported.tflite[:keep])


def test_litert_refusing_is_an_export_error() -> None:
    with pytest.raises(ExportError, match="LiteRT does not run"):
        run_tflite(b"\0\0\0\0TFL3" + b"\0" * 64, np.zeros((1, 4, 4, 3), np.float32))


def test_float64_weights_are_not_written() -> None:
    graph = fold(random_net(small().smallest(), seed=0).double(), np.float64)
    with pytest.raises(ExportError, match="float64; fold the network with dtype float32"):
        write_tflite(graph)


def test_a_graph_checks_itself(net: Net) -> None:
    graph = fold(net)
    with pytest.raises(ExportError, match="reads a value that no operator before it makes"):
        Graph(arch=graph.arch, ops=graph.ops[1:], input=graph.input, output=graph.output)
    with pytest.raises(ExportError, match="do not cover the blocks"):
        Graph(arch=small().largest(), ops=graph.ops, input=graph.input, output=graph.output)
    with pytest.raises(ExportError, match="no operator makes the output"):
        Graph(arch=graph.arch, ops=graph.ops[:-1], input=graph.input, output=graph.output)


def test_the_manifest_describes_the_file(exported: Exported) -> None:
    manifest = exported.manifest
    assert (manifest.size_bytes, manifest.arch_id) == (len(exported.tflite), small().smallest().id)
    assert manifest.read_arch() == small().smallest()
    assert manifest.input.shape == (1, 32, 32, 3)
    assert manifest.input.range == pytest.approx((-2.5, 2.5))
    assert manifest.output.names == CARD.class_names and manifest.terms == "no resale"
    assert manifest.supernet is not None and manifest.supernet.sha256 == "ab" * 32
    assert manifest.accuracy is not None and (manifest.accuracy.value, manifest.accuracy.source) == (0.5, "measured")
    assert type(manifest).model_validate_json(manifest.to_json()) == manifest

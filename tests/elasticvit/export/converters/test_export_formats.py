"""ONNX and pt2: each runs in its own runtime as the network does, for any number of images, and has metadata."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from elasticvit import Arch, macs
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.cli.app import app
from elasticvit.data.image_set import digits
from elasticvit.errors import ExportError
from elasticvit.export.api import Exported, export_net, manifest_path
from elasticvit.export.converters.convert import (
    OtherFile,
    check_file,
    other_file,
    other_format,
    other_manifest,
    write_other,
)
from elasticvit.export.converters.exported_program import exported_program
from elasticvit.export.converters.onnx import run_onnx
from elasticvit.export.converters.pt2 import DESCRIPTION, run_pt2
from elasticvit.export.file_kinds import Format
from elasticvit.export.manifest import Manifest
from elasticvit.export.precision import Precision
from elasticvit.nn.net import Net, randomise_norms
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[4]
CARD = Card("tiny", tuple("abcdefghij"), "digits", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), terms="no resale")
# torch's exporter to ONNX takes over ten seconds of a busy core, once for all tests here.
OTHERS = (pytest.param(Format.ONNX, marks=pytest.mark.slow), Format.PT2)


@dataclass(frozen=True)
class Made:
    """A network and its files, each made at its first use."""

    net: Net
    exported: Exported
    file: Callable[[Format], OtherFile]


@pytest.fixture(scope="module")
def made() -> Made:
    net = random_net(small().smallest(), seed=3)
    return Made(net, export_net(net, CARD), cache(lambda kind: other_file(net, CARD, kind)))


@pytest.fixture(scope="module")
def model(made: Made) -> onnx.ModelProto:
    return onnx.load_model_from_string(made.file(Format.ONNX).data)


def _difference(net: Net, data: bytes, kind: Format, batch: int) -> float:
    images = torch.randn(batch, 3, *[net.arch.resolution] * 2, generator=torch.Generator().manual_seed(batch))
    with torch.inference_mode():
        expected = net(images).numpy()
    logits = run_onnx(data, images.numpy()) if kind is Format.ONNX else run_pt2(data, images).numpy()
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


@pytest.mark.medium
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_number_of_images(made: Made, kind: Format, batch: int) -> None:
    assert _difference(made.net, made.file(kind).data, kind, batch) <= 1e-5


def _archs() -> dict[str, Arch]:
    drawn = small().decode(small().sample(np.random.default_rng(5), 1)[0])
    # 176 pixels reach an odd grid, whose shortcut is padded.
    return {"largest": small().largest(), "drawn": drawn, "T1": published("T1"), "min2": published("min2")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.long
@pytest.mark.parametrize("name", _archs())
def test_networks_of_all_sizes(name: str, kind: Format) -> None:
    net = random_net(_archs()[name], seed=1)
    data = other_format(net, None, kind)
    assert _difference(net, data, kind, 3) <= 1e-5


@pytest.mark.slow
def test_onnx_has_standard_operators_and_no_control_flow(model: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8, "the lowest IR version with opset 18, for older runtimes"
    assert not model.functions
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {
        *("Add", "AveragePool", "BatchNormalization", "Conv", "Gemm", "HardSigmoid", "HardSwish"),
        *("LayerNormalization", "MatMul", "Mul", "ReduceMean", "Relu", "Reshape", "Softmax", "Split", "Transpose"),
    }


@pytest.mark.slow
def test_onnx_input_and_output(model: onnx.ModelProto) -> None:
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", 3, 32, 32], "logits": ["batch", 10]}


@pytest.mark.slow
def test_onnx_parameters_have_the_names_of_modules(made: Made, model: onnx.ModelProto) -> None:
    state = {name: tensor.numpy() for name, tensor in made.net.state_dict().items()}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name in ("vit.0.attention.0.qkv.weight", "vit.3.ffn.0.project.weight", "head.expand.weight"):
        np.testing.assert_array_equal(stored[name], state[name].T)
    for name in ("head.classify.weight", "vit.1.attention.0.values_conv.weight", "vit.0.ffn.0.norm.bias"):
        np.testing.assert_array_equal(stored[name], state[name])
    # With its norm folded in.
    gain = state["first_conv.bn.weight"] / np.sqrt(state["first_conv.bn.running_var"] + 1e-5)
    folded = state["first_conv.conv.weight"] * gain[:, None, None, None]
    np.testing.assert_allclose(stored["first_conv.conv.weight"], folded, rtol=1e-6)
    modules = dict(made.net.named_modules())
    weights = [name for name, data in stored.items() if data.dtype == np.float32 and data.size > 1]
    assert all(name.rpartition(".")[0] in modules for name in weights)
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes) and all(name.rpartition("/")[0] in modules for name in nodes)


@pytest.mark.slow
def test_onnx_metadata_describes_the_network(model: onnx.ModelProto) -> None:
    _check_metadata({entry.key: entry.value for entry in model.metadata_props})


def _check_metadata(metadata: dict[str, str]) -> None:
    assert metadata["arch_id"] == small().smallest().id and Arch.from_json(metadata["arch"]) == small().smallest()
    assert json.loads(metadata["classes"]) == list(CARD.class_names) and metadata["terms"] == "no resale"
    assert (json.loads(metadata["mean"]), json.loads(metadata["std"])) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])


@pytest.mark.medium
def test_pt2_metadata_describes_the_network(made: Made) -> None:
    extra = {DESCRIPTION: ""}
    torch.export.load(io.BytesIO(made.file(Format.PT2).data), extra_files=extra)
    _check_metadata(json.loads(extra[DESCRIPTION]))


@pytest.mark.medium
@pytest.mark.parametrize("kind", OTHERS)
def test_no_path_of_this_machine_is_in_a_file(made: Made, kind: Format) -> None:
    data = made.file(kind).data
    for path in (ROOT, Path(torch.__file__).parents[1], Path.home()):
        assert str(path).encode() not in data
    assert b".py" not in data


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_the_same_network_gives_the_same_bytes_in_another_process(made: Made, kind: Format) -> None:
    code = (
        "import hashlib; from elasticvit.export.converters.convert import other_format;"
        "from elasticvit.nn.random_net import random_net; from elasticvit.archs.space import small;"
        "from elasticvit.export.file_kinds import Format;"
        "from tests.elasticvit.export.converters.test_export_formats import CARD;"
        f"print(hashlib.sha256(other_format(random_net(small().smallest(), 3), CARD, Format('{kind}'))).hexdigest())"
    )
    # Another order of sets must not show.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1"},
    )  # fmt: skip
    assert done.stdout.split()[-1] == other_manifest(made.exported.manifest, made.file(kind)).sha256


@pytest.mark.medium
@pytest.mark.parametrize("kind", OTHERS)
def test_the_manifest_of_another_format(made: Made, kind: Format) -> None:
    file = made.file(kind)
    manifest = other_manifest(made.exported.manifest, file)
    assert (manifest.format, manifest.size_bytes) == (kind.value, len(file.data))
    assert (manifest.input.layout, manifest.input.shape) == ("NCHW", (1, 3, 32, 32))
    assert (manifest.input.mean, manifest.input.std) == (CARD.mean, CARD.std)
    assert manifest.input.range == pytest.approx((-2.5, 2.5))
    assert manifest.macs == macs(made.net.arch) and manifest.terms == "no resale"
    assert 0 < manifest.max_relative_difference <= 1e-5 or kind is Format.PT2
    assert ("onnx" in manifest.versions) == (kind is Format.ONNX)
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


@pytest.mark.medium
@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_function_is_refused(made: Made, kind: Format) -> None:
    other = random_net(small().smallest(), seed=4)
    with pytest.raises(ExportError, match=rf"the {kind} file's logits differ from the network's by"):
        check_file(made.file(kind).data, other, CARD, kind)


@pytest.mark.medium
@pytest.mark.parametrize("kind", OTHERS)
def test_damaged_bytes_are_an_export_error(made: Made, kind: Format) -> None:
    with pytest.raises(ExportError, match="does not run the"):
        check_file(made.file(kind).data[:5000], made.net, CARD, kind)


@pytest.mark.parametrize(("tensor", "value"), [("first_conv.bn.running_var", "nan"), ("head.classify.weight", "inf")])
def test_weights_that_are_no_numbers_are_refused(tensor: str, value: str) -> None:
    damaged = random_net(small().smallest(), seed=0)
    damaged.state_dict()[tensor].view(-1)[0] = float(value)
    with pytest.raises(ExportError, match=f"{tensor} is not finite"):
        exported_program(damaged)


@pytest.mark.medium
def test_networks_in_other_states_are_refused() -> None:
    with pytest.raises(ExportError, match="training mode"):
        exported_program(random_net(small().smallest(), seed=0).train())
    with pytest.raises(ExportError, match=r"is torch\.float64 on cpu; call net\.float"):
        exported_program(random_net(small().smallest(), seed=0).double())
    with pytest.raises(ExportError, match="written by export_net"):
        other_format(random_net(small().smallest(), seed=0), None, Format.TFLITE)


def test_an_export_leaves_the_network_as_it_was(made: Made) -> None:
    fresh = random_net(small().smallest(), seed=3)
    state = made.net.state_dict()
    assert list(state) == list(fresh.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


@pytest.mark.medium
def test_a_folder_that_takes_no_files_is_left_as_it_was(made: Made, tmp_path: Path) -> None:
    file = made.file(Format.PT2)
    out = tmp_path / "model.pt2"
    manifest_path(out).mkdir()
    with pytest.raises(ExportError, match="is a folder; give a file name"):
        write_other(file, other_manifest(made.exported.manifest, file), out)
    assert list(tmp_path.iterdir()) == [manifest_path(out)]


def _run(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["export", *(str(arg) for arg in args)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def supernet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("supernets") / "tiny.safetensors"
    torch.manual_seed(0)
    supernet = SuperNet(small())
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    save_supernet(path, supernet, replace(CARD, class_names=digits().class_names))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(Format.ONNX, marks=pytest.mark.long), Format.PT2])
def test_export_command(kind: Format, supernet_file: Path, tmp_path: Path) -> None:
    out = tmp_path / f"model.{kind}"
    status, shown, _ = _run("--arch", "smallest", "--supernet", supernet_file, "--format", kind, "--out", out)
    assert status == 0
    manifest = Manifest.model_validate_json(manifest_path(out).read_text())
    assert (manifest.format, manifest.arch_id) == (kind.value, small().smallest().id)
    assert manifest.accuracy is not None and manifest.supernet is not None and manifest.supernet.name == "tiny"
    assert json.loads(shown)["sha256"] == manifest.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, manifest_path(out).name]


@pytest.mark.medium
@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.DYNAMIC_INT8])
def test_export_command_passes_the_precision_on(precision: Precision, tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    status, _, _ = _run(
        "--arch", small().smallest().to_json(), "--random-weights", "--precision", precision, "--out", out
    )  # fmt: skip
    assert status == 0
    manifest = Manifest.model_validate_json(manifest_path(out).read_text())
    assert manifest.precision is precision and manifest.accuracy is None and manifest.top1_change is None
    assert out.stat().st_size < 0.7 * 4 * manifest.params


def test_export_command_passes_the_input_on(tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    args = ("--arch", small().smallest().to_json(), "--random-weights", "--input", "uint8", "--out", out)
    assert _run(*args)[0] == 0
    assert Manifest.model_validate_json(manifest_path(out).read_text()).input.dtype == "uint8"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format", "onnx", "--precision", "int8"], "--format onnx is float32 only; --precision int8 needs"),
        (["--format", "pt2", "--precision", "float16"], "--format pt2 is float32 only; --precision float16 needs"),
        (["--format", "onnx", "--converter", "litert-torch"], "--converter litert-torch writes tflite only"),
        (["--format", "onnx", "--input", "uint8"], "--format onnx takes --input normalised only, not uint8"),
        (["--converter", "litert-torch", "--precision", "int8"], "--converter litert-torch is float32 only"),
        (["--converter", "litert-torch", "--input", "uint8"], "--converter litert-torch takes no bytes"),
        (["--format", "coreml"], "'coreml' is not one of"),
    ],
)
def test_export_command_refuses_what_does_not_go_together(args: list[str], message: str, tmp_path: Path) -> None:
    status, _, stderr = _run("--arch", "T0", "--random-weights", *args, "--out", tmp_path / "out")
    assert status == 2
    assert message in " ".join(stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_export_command_of_a_damaged_supernet(supernet_file: Path, tmp_path: Path) -> None:
    data = bytearray(supernet_file.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    start = header + json.loads(data[8:header])["head.classify.weight"]["data_offsets"][0]
    data[start : start + 4] = np.float32("nan").tobytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data)
    args = ("--arch", "smallest", "--supernet", damaged, "--format", "onnx", "--out", tmp_path / "out.onnx")
    status, _, stderr = _run(*args)
    assert status == 2 and "head.classify.weight holds NaN or infinite numbers" in stderr
    assert list(tmp_path.iterdir()) == [damaged]


@pytest.mark.medium
def test_commands_load_no_torch() -> None:
    code = "import sys, elasticvit.cli.app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

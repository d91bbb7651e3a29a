"""litert-torch writes the same operators as we do by other means: two writers that know nothing of each other agree."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

from elasticvit import Arch, macs
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.cli.app import app
from elasticvit.errors import ExportError
from elasticvit.export.api import export_net, manifest_path
from elasticvit.export.converters.convert import by_litert_torch
from elasticvit.export.converters.litert_torch import GraphModule, convert, operators
from elasticvit.export.graph.fold import fold
from elasticvit.export.graph.ops import Array
from elasticvit.export.input_form import InputForm, InputKind
from elasticvit.export.manifest import Manifest
from elasticvit.export.precision import Precision
from elasticvit.export.tflite.check import run_tflite
from elasticvit.export.tflite.delegates import coverage
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.nn.random_net import random_net

pytestmark = pytest.mark.usefixtures("one_thread")


QUICK = ("smallest",)


def _archs() -> dict[str, Arch]:
    """Both ends of the small space, one between them on the odd grid 3×3, and two of the paper."""
    code = small().sample(np.random.default_rng(5), 1)[0]
    code[0] = small().resolutions.index(48)
    named = {"smallest": small().smallest(), "largest": small().largest(), "drawn": small().decode(code)}
    return named | {name: published(name) for name in ("T1", "S1")}


def _relative(output: Array, expected: Array) -> float:
    return float(np.linalg.norm(output - expected) / np.linalg.norm(expected))


@pytest.mark.medium
@pytest.mark.parametrize("name", _archs())
def test_the_module_is_the_network(name: str) -> None:
    net = random_net(_archs()[name], seed=1)
    side = net.arch.resolution
    images = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = GraphModule(fold(net))(images)["logits"].numpy()
        expected = net(images.permute(0, 3, 1, 2)).numpy()
    assert _relative(logits, expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in _archs()]
)
def test_both_writers_write_the_same_function(name: str) -> None:
    net = random_net(_archs()[name], seed=1)
    graph = fold(net)
    ours, theirs = write_tflite(graph).data, convert(graph)
    assert tflite_macs(ours) == tflite_macs(theirs) == macs(net.arch)
    images = np.random.default_rng(0).uniform(-1, 1, (2, *graph.input.shape[1:])).astype(np.float32)
    assert _relative(run_tflite(ours, images), run_tflite(theirs, images)) <= 1e-5
    signatures = Interpreter(model_content=theirs, num_threads=1).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["images"], "outputs": ["logits"]}}
    taken = coverage(theirs, operators(theirs))
    assert taken.whole and taken.delegated == taken.operators > len(graph.ops)


@pytest.mark.long
@pytest.mark.slow
def test_a_file_that_normalises_by_itself() -> None:
    net = random_net(small().smallest(), seed=1)
    exported = export_net(net, None, input=InputKind.PIXELS)
    converted = by_litert_torch(net, exported)
    assert converted.manifest.input == exported.manifest.input
    assert converted.manifest.delegate is not None and exported.manifest.delegate is not None
    counts, ours = converted.manifest.delegate["xnnpack"], exported.manifest.delegate["xnnpack"]
    assert counts["partitions"] == 1 and counts["operators"] == counts["delegated"] > ours["operators"]
    assert converted.manifest.max_relative_difference <= 1e-5
    assert converted.manifest.sha256 != exported.manifest.sha256 and converted.ops == ()


@pytest.mark.long
@pytest.mark.slow
def test_export_command_by_litert_torch(tmp_path: Path) -> None:
    code = small().smallest().to_json()
    out = tmp_path / "model.tflite"
    args = ["export", "--arch", code, "--random-weights", "--converter", "litert-torch", "--out", str(out)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0
    manifest = Manifest.model_validate_json(manifest_path(out).read_text())
    assert "litert-torch" in manifest.versions and manifest.size_bytes == out.stat().st_size
    assert tflite_macs(out.read_bytes()) == macs(small().smallest())


def test_bytes_and_other_precisions_are_refused() -> None:
    net = random_net(small().smallest(), seed=1)
    with pytest.raises(ExportError, match="no files that take bytes"):
        convert(fold(net, form=InputForm(InputKind.UINT8)))
    exported = export_net(net, None)
    quantised = exported.manifest.model_copy(update={"precision": Precision.INT8})
    with pytest.raises(ExportError, match="writes float32 here, not int8"):
        by_litert_torch(net, replace(exported, manifest=quantised))


def test_a_missing_converter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(ExportError, match=r"install elasticvit\[convert\]"):
        convert(fold(random_net(small().smallest(), seed=1)))

"""Recipes of int8 weights: what ships, how one is found, and what a file of one must be."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import elasticvit
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.cli.app import app
from elasticvit.errors import ExportError
from elasticvit.export.graph.fold import fold
from elasticvit.export.precision import Precision
from elasticvit.export.quantize import find_recipe
from elasticvit.export.quantize.calibration_set import CalibrationSet, HeldOut, random_calibration_set
from elasticvit.export.quantize.recipe import (
    AccuracyDrop,
    QuantizationRecipe,
    Timed,
    load_recipe,
    recipe_for,
    shipped_recipe,
)
from elasticvit.export.tflite.number_formats import groups_of
from elasticvit.nn.random_net import random_net
from elasticvit.timing import Samples, lower_bound, measure_ms

PRETRAINED = Path(elasticvit.__file__).parent / "pretrained"
RECIPE = QuantizationRecipe(
    "mine",
    2,
    "small",
    {"cpu": "a"},
    ("head/logits",),
    {"head/logits": 0.1},
    (Timed("ab", 1.5, 2.0, 1.0, 1.9),),
    (AccuracyDrop("ab", Precision.DYNAMIC_INT8, 10, 0.5, 0.4), AccuracyDrop("cd", Precision.INT8, 10, 0.5, 0.2)),
    {"supernet": "mine"},
)


def test_a_recipe_is_its_json() -> None:
    assert QuantizationRecipe.from_json(RECIPE.to_json()) == RECIPE
    assert {"judged", "judged_on"} <= set(json.loads(RECIPE.to_json()))  # files of older versions have these keys
    assert RECIPE.id == "mine@2"
    assert RECIPE.drop() == pytest.approx(0.1) and RECIPE.drop(Precision.INT8) == pytest.approx(0.3)
    assert RECIPE.drop(Precision.FLOAT16) is None


_TEXT = RECIPE.to_json()
_BROKEN = (
    *("", "[]", "{}", '{"format": 7}'),
    _TEXT.replace('"groups"', '"group"'),
    _TEXT.replace('"mine"', "7", 1),
    _TEXT.replace('"groups": [', '"groups": "conv1", "odd": ['),
    _TEXT.replace("0.4", '"a"'),
)


@pytest.mark.parametrize("text", _BROKEN)
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(text)
    with pytest.raises(ExportError, match="not a recipe"):
        load_recipe(file)
    with pytest.raises(ExportError, match="cannot read"):
        load_recipe(tmp_path / "none.json")


@pytest.mark.medium
@pytest.mark.parametrize("space", ["small", "paper"])
def test_what_ships_names_groups_that_there_are(space: str) -> None:
    recipe = shipped_recipe(space)
    arch = small().largest() if space == "small" else published("S1")
    assert recipe.space == space and recipe_for(arch) == recipe
    assert set(recipe.groups) <= set(recipe.gains) >= set(groups_of(fold(random_net(arch, 0))))
    assert all(comparison.ratio_lower > 1 for comparison in recipe.timed) and len(recipe.timed) >= 2


def test_the_default_s_recipe_costs_less_than_a_point() -> None:
    recipe = shipped_recipe("small")
    assert recipe.evaluated_on["supernet"] == "cifar10"
    assert (
        recipe.evaluated_on["sha256"] == hashlib.sha256((PRETRAINED / "cifar10.safetensors").read_bytes()).hexdigest()
    )
    for precision in (Precision.DYNAMIC_INT8, Precision.FLOAT16, Precision.INT8):
        drops = [network for network in recipe.accuracy_drops if network.precision == precision]
        assert len(drops) >= 4 and all(network.images >= 1000 for network in drops)
        drop = recipe.drop(precision)
        assert drop is not None and drop <= 0.01


def test_the_error_for_a_space_without_a_recipe_names_the_command() -> None:
    with pytest.raises(ExportError, match="elasticvit recipe"):
        shipped_recipe("nowhere")


@pytest.mark.medium
def test_finding_takes_what_is_faster_and_bears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Clocks that say: the head gains, everything else costs. What is found is found by them and by real accuracies.
    net = random_net(small().smallest(), 0)
    monkeypatch.setattr(find_recipe, "measure_ms", _clock(gaining={"head/logits", "head/hidden"}))
    recipe = find_recipe.find_recipe("mine", 1, "small", [net])
    assert set(recipe.groups) == {"head/hidden", "head/logits"} and recipe.accuracy_drops == ()
    assert recipe.gains["head/logits"] > 0 > recipe.gains["stem/project"]
    monkeypatch.setattr(find_recipe, "measure_ms", _clock(gaining=set()))
    assert find_recipe.find_recipe("mine", 1, "small", [net]).groups == ()


@pytest.mark.long
@pytest.mark.medium
def test_groups_that_cost_accuracy_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_net(small().smallest(), 0)
    monkeypatch.setattr(find_recipe, "measure_ms", _clock(gaining=set(groups_of(fold(net)))))
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    right = net(images).argmax(1).detach()
    calibration_set = CalibrationSet(random_calibration_set(32).calibration, HeldOut(images, right, "noise"))
    every = find_recipe.find_recipe(
        "mine", 1, "small", [net], calibration_set, max_drop=1.0, evaluated_on={"supernet": "x"}
    )
    assert set(every.groups) == set(groups_of(fold(net))) and every.evaluated_on == {"supernet": "x"}
    assert {network.precision for network in every.accuracy_drops} == {*Precision} - {Precision.FLOAT32}
    assert all(network.float32 == 1.0 for network in every.accuracy_drops)
    # Below nothing can be lost, so all of them go.
    assert find_recipe.find_recipe("mine", 1, "small", [net], calibration_set, max_drop=-1.0).groups == ()


@pytest.mark.medium
def test_export_applies_the_recipe_that_is_named(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.json", tmp_path / "s.tflite"
    file.write_text(RECIPE.to_json())
    line = ["export", "--arch", "min1", "--random-weights", "--out", str(out), "--recipe", str(file)]
    done = CliRunner().invoke(app, [*line, "--precision", "dynamic_int8"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "s.tflite.manifest.json").read_text())
    assert manifest["recipe"] == {"name": "mine", "version": "2", "sha256": RECIPE.sha256}
    assert CliRunner().invoke(app, [*line, "--precision", "int8"]).exit_code == 2


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ExportError, match="give one or more"):
        find_recipe.find_recipe("mine", 1, "small", [])


def test_a_recipe_of_another_space_s_groups_is_refused() -> None:
    from elasticvit.export import export_net

    strange = QuantizationRecipe("mine", 1, "x", {}, ("nothing/here",))
    with pytest.raises(ExportError, match="mine@1 names no group"):
        export_net(random_net(small().smallest(), 0), None, precision=Precision.DYNAMIC_INT8, recipe=strange)


@pytest.mark.medium
def test_parts_that_share_their_luck_widen_the_bound() -> None:
    rng = np.random.default_rng(0)
    lucky = np.concatenate([1.05 + 0.05 * luck + 0.001 * rng.standard_normal(20) for luck in rng.standard_normal(8)])
    assert lower_bound(lucky, clusters=8) < lower_bound(lucky)


@pytest.mark.medium
def test_the_bound_is_below_the_median_and_above_nothing() -> None:
    ratios = np.random.default_rng(0).normal(1.5, 0.1, 200)
    assert 1.45 < lower_bound(ratios) < np.median(ratios)
    assert lower_bound([2.0] * 5) == 2.0


@pytest.mark.medium
def test_files_are_measured_in_turns() -> None:
    from elasticvit.export import export_net

    data = export_net(random_net(small().smallest(), 0), None).tflite
    progress: list[int] = []
    ms = measure_ms({"a": data, "b": data}, 4, on_round=lambda done, _: progress.append(done))
    assert progress == [1, 2, 3, 4]
    assert all(len(samples) == 4 and (samples > 0).all() for samples in ms.values())
    with pytest.raises(ExportError, match="does not run broken"):
        measure_ms({"broken": data[:100]}, 1)


@pytest.mark.long
@pytest.mark.slow
def test_the_command_finds_one_here(tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    done = CliRunner().invoke(app, ["recipe", "small", "--out", str(out), "--rounds", "3", "--version", "7"])
    assert done.exit_code == 0, done.output
    recipe = load_recipe(out)
    assert recipe.version == 7 and recipe.space == "small" and len(recipe.timed) == 2
    assert json.loads(done.stdout)["recipe"] == recipe.id


def _clock(gaining: set[str]) -> Callable[..., Mapping[str, Samples]]:
    """In place of measuring: 100 ms, one less for each int8 weight of some groups, one more for each of others."""
    from ai_edge_litert import schema_py_generated as schema

    from elasticvit.export.tflite.number_formats import group

    def measured(files: Mapping[str, bytes], rounds: int, **_: object) -> dict[str, Samples]:
        return {name: np.full(rounds, _time_ms(data)) for name, data in files.items()}

    def _time_ms(data: bytes) -> float:
        graph = schema.Model.GetRootAs(data).Subgraphs(0)
        tensors = (graph.Tensors(i) for i in range(graph.TensorsLength()))
        weights = [t.Name().decode().removesuffix("/weight") for t in tensors if t.Type() == schema.TensorType.INT8]
        return 100.0 - sum(1 if group(name) in gaining else -1 for name in weights)

    return measured

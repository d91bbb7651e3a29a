"""Manifests of both versions, and the card that is made of one: its snippet runs, its front matter is YAML."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import small
from elasticvit.errors import ExportError
from elasticvit.export import Exported, InputKind, Manifest, card_path, export_net, write_export
from elasticvit.export.manifest import AccuracyInfo, Latency, RecipeInfo, Top1Change
from elasticvit.export.model_card import model_card
from elasticvit.export.precision import Precision
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet_file import Card

NAMES = tuple(f"kind {letter}" for letter in "abcdefghij")
CARD = Card("tiny", NAMES, "digits", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), terms='For research: "no" resale.')
LATENCY = (
    Latency(device="pixel4", profile="p1", predicted_ms=2, lower_ms=1.5, upper_ms=2.5, confidence=0.9, measured_ms=1.9),
    Latency(device="host", measured_ms=0.7),
)
# A manifest as version 1 wrote it.
VERSION_1 = {
    "accuracy": {"source": "predicted", "value": 0.8},
    "arch": json.loads(small().smallest().to_json()),
    "arch_id": small().smallest().id,
    "created_by": "elasticvit 0.1.0",
    "format": "tflite",
    "input": {
        **{"dtype": "float32", "layout": "NHWC", "name": "images", "shape": [1, 32, 32, 3]},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "range": [-1.0, 1.0]},
    },
    "macs": 1396368,
    "max_relative_difference": 2e-06,
    "output": {"classes": 10, "name": "logits", "names": None},
    "params": 910476,
    "precision": "float32",
    "schema_version": 1,
    "sha256": "cd" * 32,
    "size_bytes": 3677792,
    "supernet": {"name": "tiny", "sha256": None},
    "terms": None,
    "versions": {"elasticvit": "0.1.0"},
}


@pytest.fixture(scope="module")
def net() -> Net:
    return random_net(small().smallest(), seed=3)


APART = Accuracy.measured(0.5, 1000, independent=True)


@pytest.fixture(scope="module")
def exported(net: Net) -> Exported:
    return export_net(net, CARD, accuracy=APART, latency=LATENCY)


def _front_matter(card: str) -> dict[str, object]:
    _, front, _ = card.split("---\n", 2)
    loaded: dict[str, object] = yaml.safe_load(front)
    return loaded


def _int8(manifest: Manifest) -> Manifest:
    return manifest.model_copy(
        update={
            "precision": Precision.DYNAMIC_INT8,
            "recipe": RecipeInfo(name="small", version="1"),
            "top1_change": Top1Change(
                value=-0.0012,
                images=5000,
                source="measured on images that were used for no choice, of digits",
                lower=-0.004,
                upper=0.0016,
                independent=True,
            ),
        }
    )


def test_manifests_of_version_1_are_read() -> None:
    old = Manifest.model_validate_json(json.dumps(VERSION_1))
    assert (old.schema_version, old.precision, old.input.kind) == (1, Precision.FLOAT32, InputKind.NORMALISED)
    assert (old.recipe, old.top1_change, old.delegate, old.latency) == (None, None, None, ())
    assert old.read_arch() == small().smallest()
    assert Manifest.model_validate_json(old.to_json()) == old
    assert "predicted from other networks" in model_card(old)


def test_manifests_of_version_3(exported: Exported) -> None:
    manifest = exported.manifest
    assert manifest.schema_version == 3 and manifest.latency == LATENCY
    assert manifest.supernet is not None and manifest.supernet.data == "digits"
    for one in (manifest, _int8(manifest)):
        assert Manifest.model_validate_json(one.to_json()) == one


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema_version": 4},
        {"precision": "int4"},
        {"top1_change": {"value": 0.1}},
        {"latency": [{"device": "x", "measured_ms": 0}]},
    ],
)
def test_manifests_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Manifest.model_validate_json(json.dumps(VERSION_1 | wrong))


def test_front_matter_is_what_hubs_read(exported: Exported) -> None:
    front = _front_matter(model_card(exported.manifest))
    assert front["license"] == "other" and front["datasets"] == ["digits"]
    assert front["pipeline_tag"] == "image-classification"
    assert front["tags"] == ["elasticvit", "litert", "tflite", "image-classification", "float32"]
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5  # type: ignore[index]
    free = exported.manifest.model_copy(update={"terms": None, "accuracy": None})
    assert _front_matter(model_card(free))["license"] == "unknown" and "model-index" not in _front_matter(
        model_card(free)
    )


def test_a_card_shows_the_measurements(exported: Exported) -> None:
    card = model_card(exported.manifest)
    said = "measured on 1,000 images that were used for no choice (95 % interval 46.9 to 53.1 %)"
    assert f"Top-1 50.0%, {said}." in card and "too good" not in card
    assert "| pixel4 | p1 | p50 | 2.000 | 1.500 to 2.500 (90% confidence) | 1.900 |" in card
    assert "| host | – | p50 | – | – | 0.700 |" in card
    assert '## Terms\n\nFor research: "no" resale.' in card and exported.manifest.sha256 in card
    assert "kind a, kind b" in card and "random" not in card


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (Accuracy.measured(0.5, 60, independent=False), "measured on the 60 images that also chose this network"),
        (Accuracy.measured(0.5, 60), "measured on 60 images of which it is not known whether they also chose"),
        (Accuracy(0.5), "measured on images of which it is not known whether they also chose"),
        (Accuracy(0.5, "predicted", independent=False), "measured on images that also chose this network"),
    ],
)
def test_a_card_says_that_less_is_to_be_expected(exported: Exported, accuracy: Accuracy, said: str) -> None:
    """Hubs get no result that was measured on the images that chose."""
    manifest = exported.manifest.model_copy(update={"accuracy": AccuracyInfo.of(accuracy)})
    card = model_card(manifest)
    assert said in card and "expect less" in card and "Its accuracy is likely too good" in card
    assert "held-out images" not in card and "model-index" not in _front_matter(card)


def test_a_card_of_a_quantised_file(exported: Exported) -> None:
    quantised = _int8(exported.manifest)
    card = model_card(quantised, other_precisions=[exported.manifest])
    assert "Top-1 50.0% in float32" in card and "moves by -0.12 points (95 % interval -0.4 to +0.2 points)" in card
    assert "measured on images that were used for no choice, of digits (5,000 images)." in card
    assert _front_matter(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.4988  # type: ignore[index]
    assert "| dynamic_int8 | 3.68 | -0.12 | 1.900 ms on pixel4, 0.700 ms on host |" in card
    assert "| float32 | 3.68 | 0 |" in card and "the recipe `small`, version 1" in card
    untold = quantised.model_copy(update={"top1_change": None})
    assert "What dynamic_int8 changes was not measured." in model_card(untold)
    assert quantised.top1_change is not None
    of_others = quantised.top1_change.model_copy(update={"source": "mean of 4 other networks"})
    for unmeasured in (untold, quantised.model_copy(update={"top1_change": of_others})):
        assert "model-index" not in _front_matter(model_card(unmeasured))


def test_a_card_of_random_weights(net: Net) -> None:
    card = model_card(export_net(net, None).manifest)
    assert "Its weights are random" in card and "None is stated: measure it on your device." in card
    assert "labels.txt" not in card and "datasets" not in card


@pytest.mark.medium
@pytest.mark.parametrize("kind", InputKind)
def test_the_snippet_of_a_card_classifies(kind: InputKind, net: Net, tmp_path: Path) -> None:
    write_export(export_net(net, CARD, input=kind), tmp_path / "a model.tflite")
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    card = card_path(tmp_path / "a model.tflite").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace("photo.jpg", "photo.png")  # lossless, so that the answer is known to the last digit
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code += "np.save('logits.npy', logits)\n"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = net(CARD.scaled(images))[0].numpy()
    logits = np.load(tmp_path / "logits.npy")
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)
    assert done.stdout.strip() == NAMES[int(expected.argmax())]


def test_other_formats_have_no_card(exported: Exported) -> None:
    with pytest.raises(ExportError, match=r"this manifest is of onnx"):
        model_card(exported.manifest.model_copy(update={"format": "onnx"}))


def test_the_same_export_gives_the_same_card(exported: Exported, net: Net) -> None:
    again = export_net(net, CARD, accuracy=APART, latency=LATENCY)
    assert model_card(again.manifest) == model_card(exported.manifest)

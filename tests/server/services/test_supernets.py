"""Supernets that are served besides the default one: added by a file, known at a start, refused in a sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elasticvit.accuracy.evaluate import recalibrated
from elasticvit.accuracy.intervals import wilson
from elasticvit.accuracy.table import AccuracyTable, append
from elasticvit.archs.arch import Arch
from elasticvit.nn import tensorfile
from elasticvit.nn.supernet_file import load_supernet
from elasticvit.nn.supernet_header import FORMAT
from server.compute.exporting.loaded_supernet import LoadedSupernet
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.exports import export_subnet
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Compute
from server.demo.model import try_model
from server.errors import BadValue
from server.services import model_latency, models, supernets
from server.settings import Settings
from server.supervise import bootstrap
from server.wire import LatencyAnswer
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.compute.exporting_farm import LocalExporter
from tests.server.server_farm import Farm, problem
from tests.server.supernet_files import TERMS, supernet_file

NOWHERE = "no-such-set"


def _add(farm: Farm, file: Path, role: str = "admin", **more: str) -> Any:  # noqa: ANN401
    return farm.call("POST", "/supernets", role, json={"path": str(file), **more})


def _served_supernet(farm: Farm, file: Path) -> ServedSupernet:
    """As a worker has a supernet of this home."""
    assert _add(farm, file).status_code == 201
    return SupernetCache(_compute(farm)).get(file.stem)


def _compute(farm: Farm) -> Compute:
    return Compute(Settings(home=farm.home), farm.database, farm.blobs, farm.clock)


@pytest.mark.medium
def test_an_added_supernet_is_listed_with_its_terms(farm: Farm, tmp_path: Path) -> None:
    farm.supernet()
    file = supernet_file(tmp_path / "mine.safetensors")
    answer = _add(farm, file)
    assert answer.status_code == 201 and answer.headers["location"] == "/supernets/mine"
    seen = farm.ok("GET", "/supernets/mine", "viewer")
    assert seen == answer.json() == farm.ok("GET", "/supernets")["items"][1]
    assert seen["terms"] == TERMS and seen["classes"] == 10 and seen["space"]["name"] == "tiny"
    assert seen["size_bytes"] == file.stat().st_size and seen["is_default"] is False
    folder = farm.home / "supernets"
    assert (folder / "mine.safetensors").read_bytes() == file.read_bytes()
    assert (folder / "mine.accuracy.jsonl").read_bytes() == (tmp_path / "mine.accuracy.jsonl").read_bytes()
    assert _add(farm, file).status_code == 201, "the same file twice is harmless"
    assert _add(farm, file, name="other").json()["name"] == "other"
    assert farm.left_behind() == []


@pytest.mark.medium
def test_a_search_asks_for_it_by_name(farm: Farm, tmp_path: Path) -> None:
    farm.supernet()
    farm.predictor()
    _add(farm, supernet_file(tmp_path / "mine.safetensors"))
    body = {"device": "host", "budget": {"latency_ms": 5.0}, "supernet": "mine"}
    refused = problem(farm.call("POST", "/search", json=body), 409)
    assert '"supernet": "mine"' in refused["detail"], "it says how to calibrate for this very supernet"
    assert farm.call("POST", "/search", json={**body, "allow_uncalibrated": True}).status_code == 202


@pytest.mark.medium
def test_what_cannot_be_served_is_refused_with_a_reason(farm: Farm, tmp_path: Path) -> None:
    def refused(file: Path, status: int = 422, **more: str) -> str:
        return str(problem(_add(farm, file, **more), status)["detail"])

    assert "no file" in refused(tmp_path / "none.safetensors")
    assert "no file" in refused(tmp_path)
    bare = supernet_file(tmp_path / "bare.safetensors", table=False)
    assert f"elasticvit tabulate {bare} --n 600" in refused(bare)
    bare.with_suffix(".accuracy.jsonl").write_text("torn")
    assert "elasticvit tabulate" in refused(bare)
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    assert "not a whole supernet file" in refused(tmp_path / "text.safetensors")
    whole = supernet_file(tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    assert "cut off" in refused(tmp_path / "cut.safetensors")
    (tmp_path / "head.safetensors").write_bytes(whole.read_bytes()[:1000])
    assert "not a whole supernet file" in refused(tmp_path / "head.safetensors")
    spaced = supernet_file(tmp_path / "a name.safetensors")
    assert "cannot be a supernet's name" in refused(spaced)
    refused(whole, name="../up")
    assert _add(farm, whole).status_code == 201
    assert "another name" in refused(supernet_file(tmp_path / "x.safetensors", seed=1), 409, name="whole")
    problem(farm.call("POST", "/supernets", json={"path": str(whole), "default": True}), 422)
    problem(_add(farm, whole, "user"), 403)
    assert {path.name for path in (farm.home / "supernets").iterdir()} == {"whole.safetensors", "whole.accuracy.jsonl"}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("card", '{"name": "tiny", "provenance": "mine"}'),
        ("card", '{"name": "tiny", "terms": 5}'),
        ("card", '{"name": "tiny", "terms": "\\ud800"}'),
        ("card", '{"name": "tiny", "provenance": {"loss": NaN}}'),
        ("card", '[["name", "tiny"]]'),
        ("card", "[" * 100_000),
        ("space", "[" * 100_000),
        ("space", re.sub(r'"depths":\[[\d,]*', r"\g<0>,1000000000000", tiny_space().to_json(), count=1)),
    ],
)
def test_a_hostile_header_is_refused(farm: Farm, tmp_path: Path, field: str, text: str) -> None:
    """Before anything of it is stored, or as much memory taken as it says."""
    header = {"format": FORMAT, "space": tiny_space().to_json(), "card": '{"name": "tiny"}', field: text}
    file = supernet_file(tmp_path / "hostile.safetensors")
    file.write_bytes(tensorfile.encode({}, header))
    assert "damaged header" in problem(_add(farm, file), 422)["detail"]
    assert farm.ok("GET", "/supernets")["items"] == []


def test_a_path_that_no_file_can_have_is_refused(farm: Farm, tmp_path: Path) -> None:
    problem(_add(farm, tmp_path / ("x" * 300)), 422)


@pytest.mark.medium
def test_files_of_the_home_folder_are_known_at_a_start_and_one_is_the_default(farm: Farm) -> None:
    folder, messages = farm.home / "supernets", list[str]()
    first, second = (supernet_file(folder / f"{name}.safetensors") for name in ("first", "second"))
    supernet_file(folder / "bare.safetensors", table=False)
    for default in (second, first, first):
        bootstrap.register_supernets(farm.database, folder, default, messages.append, farm.clock)
        known = {row["name"]: row["is_default"] for row in farm.ok("GET", "/supernets")["items"]}
        assert known == {"first": default == first, "second": default == second}
        with farm.database.read() as session:
            assert supernets.resolve(session, None).name == default.stem
    assert len(messages) == 3
    assert all("not serving bare.safetensors" in message and "tabulate" in message for message in messages)
    with pytest.raises(BadValue, match="tabulate"):
        bootstrap.register_supernets(farm.database, folder, folder / "bare.safetensors", messages.append, farm.clock)


@pytest.mark.medium
def test_without_its_images_a_model_is_recalibrated_by_the_carried_ones(farm: Farm, tmp_path: Path) -> None:
    """And its accuracy is predicted, or that of the table where it stands there; the terms come along."""
    served_supernet = _served_supernet(farm, supernet_file(tmp_path / "far.safetensors", data=NOWHERE))
    assert LoadedSupernet.load(served_supernet.ref).weights.images is None
    space, table = served_supernet.space, served_supernet.table
    known = {tuple(code) for code in table.codes.tolist()}
    code = next(code for code in space.sample(np.random.default_rng(1), 100) if tuple(code) not in known)
    predicted = export_subnet(_compute(farm), LocalExporter(), served_supernet, space.decode(code), "subnet")
    assert predicted.accuracy["source"] == "predicted"
    assert predicted.accuracy["value"] == pytest.approx(float(served_supernet.accuracy.predict(code[None])[0]))
    assert predicted.accuracy["independent"] is False and predicted.accuracy["images"] is None
    measured = export_subnet(_compute(farm), LocalExporter(), served_supernet, space.decode(table.codes[3]), "subnet")
    value = float(table.top1[3])
    lower, upper = wilson(value, table.images)
    interval = {"images": table.images, "lower": lower, "upper": upper, "independent": False}
    assert measured.accuracy == {"value": value, "source": "measured"} | interval, "these images chose"
    for model in (predicted, measured):
        assert model.manifest["accuracy"] == model.accuracy and model.manifest["terms"] == TERMS
        assert models.view(model).terms == TERMS
        seen = farm.ok("GET", f"/models/{model.id}")
        assert seen["terms"] == TERMS and seen["accuracy"] == model.accuracy
        assert farm.ok("GET", f"/models/{model.id}/download?format=manifest")["terms"] == TERMS


@pytest.mark.medium
def test_with_its_images_accuracy_is_measured(farm: Farm, tmp_path: Path) -> None:
    served_supernet = _served_supernet(farm, supernet_file(tmp_path / "near.safetensors"))
    known = {tuple(code) for code in served_supernet.table.codes.tolist()}
    codes = served_supernet.space.sample(np.random.default_rng(1), 100)
    loaded = LoadedSupernet.load(served_supernet.ref)
    arch = served_supernet.space.decode(next(code for code in codes if tuple(code) not in known))
    accuracy = loaded.known_accuracy(recalibrated(loaded.weights.net, arch))
    assert accuracy is not None and accuracy.source == "measured" and loaded.weights.images is not None
    correct = (accuracy.value or 0.0) * len(loaded.weights.images.val)
    assert accuracy.images == len(loaded.weights.images.val)
    assert correct > 0 and correct == pytest.approx(round(correct), abs=1e-6), "a fraction of whole images"


@pytest.mark.medium
def test_what_is_known_of_a_model_is_what_its_bytes_tell(farm: Farm, tmp_path: Path) -> None:
    """A measured accuracy in place of a predicted one is another file, and another model."""
    file = supernet_file(tmp_path / "far.safetensors", data=NOWHERE)
    served_supernet = _served_supernet(farm, file)
    arch, table = served_supernet.space.largest(), served_supernet.table
    before = export_subnet(_compute(farm), LocalExporter(), served_supernet, arch, "subnet")
    served = farm.home / "supernets" / "far.accuracy.jsonl"
    value = before.accuracy["value"]
    append(served, table.space, table.images, table.space.encode(arch)[None], [value])
    after = export_subnet(_compute(farm), LocalExporter(), SupernetCache(_compute(farm)).get("far"), arch, "subnet")
    assert before.accuracy["source"] == "predicted"
    assert (after.accuracy["source"], after.accuracy["value"]) == ("measured", value)
    assert after.id != before.id and after.sha256 != before.sha256
    for model in (before, after):
        assert model.manifest["accuracy"] == model.accuracy
        assert (model.manifest["sha256"], model.manifest["size_bytes"]) == (model.sha256, model.size_bytes)


@pytest.mark.medium
def test_an_export_that_is_repeated_keeps_what_is_known_of_its_latency(farm: Farm, tmp_path: Path) -> None:
    file = supernet_file(tmp_path / "far.safetensors", data=NOWHERE)
    served_supernet = _served_supernet(farm, file)
    model = export_subnet(_compute(farm), LocalExporter(), served_supernet, served_supernet.space.largest(), "subnet")
    answer = LatencyAnswer(predicted_ms=1.0, lower_ms=0.9, upper_ms=1.1, confidence=0.9)
    with farm.database.write() as session:
        model_latency.add_predicted(session, model.id, "host", None, answer)
    farm.blobs.path(model.sha256).unlink()
    again = export_subnet(_compute(farm), LocalExporter(), served_supernet, served_supernet.space.largest(), "subnet")
    assert again.id == model.id and [row["predicted_ms"] for row in again.manifest["latency"]] == [1.0]


@pytest.mark.medium
def test_a_downloaded_file_answers_as_torch_does(farm: Farm, tmp_path: Path) -> None:
    arch: Arch = tiny_space().largest()
    for data, tested in ((NOWHERE, 0), ("digits", 360)):
        file = supernet_file(tmp_path / f"{tested}.safetensors", data=data)
        model = export_subnet(_compute(farm), LocalExporter(), _served_supernet(farm, file), arch, "subnet")
        tflite = farm.blobs.find(model.sha256).read_bytes()
        tried = try_model(tflite, json.loads(arch.to_json()), file)
        assert (tried.same, tried.images, tried.terms, tried.data) == (16, 16, TERMS, data)
        assert (tried.top1 is None, tried.tested == 0) == (data == NOWHERE, data == NOWHERE)


@pytest.mark.medium
def test_a_downloaded_file_with_other_weights_is_recognised(farm: Farm, tmp_path: Path) -> None:
    arch: Arch = tiny_space().largest()
    model = export_subnet(
        _compute(farm),
        LocalExporter(),
        _served_supernet(farm, supernet_file(tmp_path / "a.safetensors", seed=1)),
        arch,
        "subnet",
    )
    other = supernet_file(tmp_path / "b.safetensors", seed=2, data=NOWHERE)
    assert load_supernet(other).calibration is not None
    tried = try_model(farm.blobs.find(model.sha256).read_bytes(), json.loads(arch.to_json()), other)
    assert tried.same < tried.images


@pytest.mark.medium
def test_a_table_may_hold_more_than_it_needs(farm: Farm, tmp_path: Path) -> None:
    """A re-evaluated code counts once, by its last line."""
    file = supernet_file(tmp_path / "again.safetensors")
    table = AccuracyTable.load(file.with_suffix(".accuracy.jsonl"))
    append(file.with_suffix(".accuracy.jsonl"), table.space, table.images, table.codes[:1], [0.125])
    served_supernet = _served_supernet(farm, file)
    loaded = LoadedSupernet.load(served_supernet.ref)
    accuracy = loaded.served.table.chosen_by(table.codes[0])
    assert accuracy is not None and accuracy.value == 0.125 and accuracy.source == "measured"

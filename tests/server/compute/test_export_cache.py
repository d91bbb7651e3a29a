"""What was exported once is found again, and what has changed is not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elasticvit
from elasticvit.accuracy.table import AccuracyTable, append
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from server.compute import worker
from server.compute.exporting.exporter import ChildExporter
from server.compute.exporting.loaded_supernet import LoadedSupernet
from server.compute.exports import export_for_timing, export_subnet
from server.compute.jobs.warm import warm
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Task
from server.services import claims, export_key, models
from server.store.supernet_file import SupernetRef
from server.wire import JobKind
from server.wire.liveness import Liveness
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.compute.exporting_farm import (
    NOWHERE,
    LocalExporter,
    Meddled,
    Never,
    ask,
    compute_of,
    executing,
    no_images,
    noted_images,
    served,
    work_off,
)
from tests.server.server_farm import Farm
from tests.server.supernet_files import TERMS, supernet_file


@pytest.mark.medium
def test_a_subnet_is_exported_once_and_then_answered_at_once(farm: Farm, supernet: str, child: ChildExporter) -> None:
    first = ask(farm, supernet)
    assert first["status"] == "queued" and work_off(farm, child) == 1
    done = farm.ok("GET", first["url"])
    assert done["status"] == "succeeded", done["error"]
    model = farm.ok("GET", done["result"]["url"])
    assert model["precision"] == "float32" and model["terms"] == TERMS and model["accuracy"]["source"] == "predicted"
    again = ask(farm, supernet)
    assert again["status"] == "succeeded" and again["id"] != first["id"]
    seen = farm.ok("GET", again["url"])
    assert seen["result"] == done["result"] and seen["attempts"] == 0 and seen["finished_at"]
    by_id = farm.ok("POST", "/subnets", "user", json={"arch": model["arch_id"], "supernet": supernet})
    assert by_id["status"] == "succeeded"
    assert work_off(farm, Never()) == 0 and len(farm.ok("GET", "/models")["items"]) == 1


@pytest.mark.medium
def test_searches_subnets_and_calibrations_share_what_is_the_same(farm: Farm, supernet: str) -> None:
    compute, here, arch = compute_of(farm), LocalExporter(), tiny_space().largest()
    served_supernet = SupernetCache(compute).get(supernet)
    exported = export_subnet(compute, here, served_supernet, arch, "search")
    assert ask(farm, supernet)["status"] == "succeeded"
    assert export_subnet(compute, Never(), served_supernet, arch, "subnet").id == exported.id
    timed = export_for_timing(compute, here, served_supernet, arch)
    assert timed.sha256 != exported.sha256, "its norms are as cut"
    assert export_for_timing(compute, Never(), served_supernet, arch).id == timed.id
    assert timed.export_key != exported.export_key


@pytest.mark.medium
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:1000])])
def test_a_model_whose_file_is_gone_or_damaged_is_exported_again(
    farm: Farm, supernet: str, damage: Callable[[Path], object]
) -> None:
    ask(farm, supernet)
    here = LocalExporter()
    assert work_off(farm, here) == 1
    (model,) = farm.ok("GET", "/models")["items"]
    damage(farm.blobs.path(model["sha256"]))
    assert ask(farm, supernet)["status"] == "queued" and work_off(farm, here) == 1
    assert farm.call("GET", model["download_url"]).status_code == 200
    assert [row["id"] for row in farm.ok("GET", "/models")["items"]] == [model["id"]]


def test_the_key_holds_what_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, smallest = tiny_space().largest(), tiny_space().smallest()

    def of(arch: Arch = largest, sha256: str = "0" * 64, table: str | None = "2" * 64, **more: Any) -> str:  # noqa: ANN401
        decides: dict[str, Any] = {"precision": "float32", "recalibrate": True} | more
        supernet = SupernetRef("tiny", Path("tiny.safetensors"), sha256, table)
        return export_key.export_key(supernet, arch, **decides)

    keys = [of(), of(smallest), of(sha256="1" * 64), of(precision="int8"), of(recalibrate=False), of(seed=1)]
    keys += [of(table=None), of(table="3" * 64)]
    assert of(recalibrate=False) == of(recalibrate=False, table=None), "files of unknown accuracy state none"
    monkeypatch.setattr(export_key, "package_versions", lambda: {"torch": "0"})
    keys.append(of())
    monkeypatch.setattr(export_key, "code_sha256", lambda: "another")
    keys.append(of())
    assert len(set(keys)) == len(keys) and of() == of()


def test_the_code_of_exports_is_part_of_the_key() -> None:
    root = Path(elasticvit.__file__).parents[1]
    places = ("elasticvit/**/*.py", "elasticvit/export/quantize/recipes/*.json", "server/compute/exporting/*.py")
    due = {path.relative_to(root).as_posix(): path for place in places for path in root.glob(place)}
    due["server/services/export_key.py"] = root / "server/services/export_key.py"
    assert export_key.code_files() == due
    some = {"elasticvit/export/api.py", "elasticvit/export/quantize/recipes/small.json"}
    assert some | {"server/compute/exporting/work.py"} <= set(due)


def test_the_hash_of_the_code_is_of_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for name, content in (("a.py", "1"), ("b.py", "1"), ("a.py", "2")):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(export_key, "code_files", lambda name=name: {name: tmp_path / name})
        export_key.code_sha256.cache_clear()
        seen.add(export_key.code_sha256())
    export_key.code_sha256.cache_clear()
    assert len(seen) == 3 and {len(digest) for digest in seen} == {64}


@pytest.mark.medium
def test_a_new_row_of_the_table_is_used_without_another_load(farm: Farm, supernet: str, tmp_path: Path) -> None:
    """The weights are not loaded again."""
    loads: list[str] = []
    here, arch = (
        LocalExporter(noted_images(loads)),
        tiny_space().decode(tiny_space().sample(np.random.default_rng(9), 1)[0]),
    )
    execute = executing(compute_of(farm), here)

    def exported() -> Any:  # noqa: ANN401
        job = ask(farm, supernet, arch)
        assert job["status"] == "queued"
        with farm.database.write() as session:
            claimed = claims.claim_compute(session, "by-hand", (JobKind.SUBNET,), farm.clock())
        assert claimed is not None
        worker.run_job(Task(compute_of(farm), claimed, threading.Event()), execute)
        return farm.ok("GET", farm.ok("GET", job["url"])["result"]["url"])

    assert exported()["accuracy"]["source"] == "predicted"
    assert loads == [NOWHERE]
    table = AccuracyTable.load(tmp_path / "tiny.accuracy.jsonl")
    code = table.space.encode(arch)[None]
    append(farm.home / "supernets" / f"{supernet}.accuracy.jsonl", table.space, table.images, code, [0.125])
    model = exported()
    assert model["accuracy"] == model["manifest"]["accuracy"]
    assert (model["accuracy"]["value"], model["accuracy"]["source"]) == (0.125, "measured")
    assert loads == [NOWHERE], "weights and images were loaded once"


def test_images_are_kept_for_the_sides_that_were_used_last(farm: Farm, supernet: str) -> None:
    weights = LoadedSupernet.load(SupernetCache(compute_of(farm)).get(supernet).ref).weights
    at_32, at_48 = weights.calibration_at(32), weights.calibration_at(48)
    assert at_32.shape[-1] == 32 and at_48.shape[-1] == 48
    assert weights.calibration_at(32) is at_32 and weights.calibration_at(48) is at_48
    assert weights.calibration_at(32) is at_32, "now 48 is the oldest"
    weights.calibration_at(64)
    assert weights.calibration_at(32) is at_32 and weights.calibration_at(48) is not at_48


@pytest.mark.medium
def test_two_workers_that_export_the_same_store_one_model(farm: Farm, supernet: str) -> None:
    """Both have looked for it before either has made it."""
    together, arch = threading.Barrier(2), tiny_space().largest()
    model_ids: list[str] = []

    def work() -> None:
        compute = compute_of(farm)
        exporter = Meddled(LocalExporter(), "extracting", lambda: void(together.wait(30)))
        served_supernet = SupernetCache(compute).get(supernet)
        model_ids.append(export_subnet(compute, exporter, served_supernet, arch, "subnet").id)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model_ids) == 2 and len(set(model_ids)) == 1
    assert len(farm.ok("GET", "/models")["items"]) == 1 and farm.blob_count() == 1


def void(_value: object) -> None:
    return


@pytest.mark.medium
def test_exports_without_images_are_repeated_on_a_machine_with_images(farm: Farm, tmp_path: Path) -> None:
    """As the worker finds at its start."""
    far = served(farm, supernet_file(tmp_path / "far.safetensors", data=NOWHERE))
    near = served(farm, supernet_file(tmp_path / "near.safetensors", data="digits"))
    arch = tiny_space().decode(tiny_space().sample(np.random.default_rng(9), 1)[0])
    for name in (far, near):
        compute, served_supernet = compute_of(farm), SupernetCache(compute_of(farm)).get(name)
        model = export_subnet(compute, LocalExporter(no_images), served_supernet, arch, "subnet")
        assert model.accuracy["source"] == "predicted"
        assert ask(farm, name, arch)["status"] == "succeeded"
    with farm.database.read() as session:
        assert {row.name for row in models.with_unmeasured(session)} == {far, near}
    warm(compute_of(farm), LocalExporter(), threading.Event(), Liveness().pulse("warm"))
    assert ask(farm, far, arch)["status"] == "succeeded"
    job = ask(farm, near, arch)
    assert job["status"] == "queued" and work_off(farm, LocalExporter()) == 1
    model_id = farm.ok("GET", job["url"])["result"]["model_id"]
    assert farm.ok("GET", f"/models/{model_id}")["accuracy"]["source"] == "measured"
    assert ask(farm, near, arch)["status"] == "succeeded"


@pytest.mark.medium
def test_the_change_by_a_precision_is_measured_on_a_machine_with_images(farm: Farm, tmp_path: Path) -> None:
    """Also of a network whose accuracy stands in the table; and its accuracy on images that did not choose it."""
    near = served(farm, supernet_file(tmp_path / "near.safetensors", data="digits"))
    compute = compute_of(farm)
    served_supernet = SupernetCache(compute).get(near)
    arch, blind = served_supernet.space.decode(served_supernet.table.codes[0]), LocalExporter(no_images)
    whole, half = (
        export_subnet(compute, blind, served_supernet, arch, "subnet", precision=precision)
        for precision in ("float32", "float16")
    )
    assert whole.accuracy["source"] == half.accuracy["source"] == "measured"
    assert whole.manifest["top1_change"] is half.manifest["top1_change"] is None
    with farm.database.read() as session:
        assert [row.name for row in models.with_unmeasured(session)] == [near]
    warm(compute, LocalExporter(), threading.Event(), Liveness().pulse("warm"))
    job = ask(farm, near, arch)
    assert job["status"] == "queued" and work_off(farm, LocalExporter()) == 1
    again = farm.ok("GET", farm.ok("GET", job["url"])["result"]["url"])
    assert whole.accuracy["independent"] is False and again["accuracy"]["independent"] is not False
    assert ask(farm, near, arch)["status"] == "succeeded", "there is nothing more to measure of it"
    job = ask(farm, near, arch, precision="float16", max_accuracy_drop=1.0)
    assert job["status"] == "queued" and work_off(farm, LocalExporter()) == 1
    model = farm.ok("GET", farm.ok("GET", job["url"])["result"]["url"])
    assert model["manifest"]["top1_change"]["source"].startswith("measured") and model["id"] != half.id
    with farm.database.read() as session:
        assert models.with_unmeasured(session) == []


ON_DIGITS = "measured on images that were used for no choice, of digits"
UNMEASURED: list[tuple[str, Accuracy | None, str | None, bool]] = [
    ("float32", Accuracy.measured(0.5, 10, independent=True), None, True),
    ("float32", Accuracy.measured(0.5, 10), None, True),
    ("float32", Accuracy.measured(0.5, 10, independent=False), None, False),
    ("float32", Accuracy(0.5, "predicted"), None, False),
    ("float32", None, None, False),
    ("int8", Accuracy(0.5), None, False),
    ("int8", Accuracy(0.5), "mean of 20 other networks of tiny (recipe small@1)", False),
    ("int8", Accuracy(0.5), ON_DIGITS, True),
    ("int8", Accuracy(0.5, "predicted"), ON_DIGITS, False),
]


@pytest.mark.medium
def test_only_what_was_measured_is_found_again(any_farm: Farm) -> None:
    supernet = any_farm.supernet()
    with any_farm.database.write() as session:
        for number, (precision, accuracy, change, _) in enumerate(UNMEASURED):
            new = models.NewModel(
                models.store_bytes(any_farm.blobs, bytes([number])),
                "subnet",
                {"top1_change": None if change is None else {"value": 0.0, "images": 1, "source": change}},
                precision=precision,
                accuracy=accuracy,
                supernet=supernet,
                export_key=f"{number}",
            )
            models.add(session, new, any_farm.clock())
        models.forget_unmeasured(session, supernet)
    with any_farm.database.read() as session:
        kept = [models.exported(session, any_farm.blobs, f"{number}") is not None for number in range(len(UNMEASURED))]
    assert kept == [stays for *_, stays in UNMEASURED]

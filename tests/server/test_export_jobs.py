"""Exports as jobs: what fails leaves one failed job and nothing in the store; what was made once is not made again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import elasticvit
from elasticvit.accuracy_table import AccuracyTable, append
from elasticvit.arch import Arch
from elasticvit.published import published
from elasticvit.training.data import load_named
from server import bootstrap, worker
from server.errors import ServerError
from server.execution.exports import export_for_timing, export_subnet
from server.execution.stock import Stock
from server.execution.warm import warm
from server.executor import Executor
from server.exporting import key
from server.exporting.exporter import ChildExporter
from server.exporting.order import Exporter
from server.exporting.process import Limits
from server.exporting.work import Here
from server.services import jobs, models
from server.task import Task
from server.wire import Accuracy, JobKind
from tests.elasticvit.tiny_training import tiny_space
from tests.server.exporting_farm import (
    NOWHERE,
    Meddled,
    Meddler,
    ask,
    compute_of,
    damaged,
    order,
    served,
    with_nan,
    with_one_image,
    work_off,
)
from tests.server.server_farm import Farm, problem
from tests.server.supernet_files import TERMS, supernet_file

MEMORY = 4_000_000_000


@pytest.fixture(scope="module")
def child() -> Iterator[ChildExporter]:
    exporter = ChildExporter(Limits(120, MEMORY))
    exporter.start()
    yield exporter
    exporter.close()


@pytest.fixture
def supernet(farm: Farm, tmp_path: Path) -> str:
    return served(farm, supernet_file(tmp_path / "tiny.safetensors", data=NOWHERE))


class Never:
    """An exporter for what must not be exported."""

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        raise AssertionError(f"exported again: {order}")


def nothing_stored(farm: Farm) -> None:
    assert farm.ok("GET", "/models")["items"] == []
    assert farm.blob_count() == 0 and farm.left_behind() == []


def only_failure(farm: Farm, kind: str) -> str:
    """Why the only job failed, at its first attempt."""
    (job,) = farm.ok("GET", "/jobs")["items"]
    assert job["status"] == "failed" and job["attempts"] == 1 and job["result"] is None
    assert job["error"]["kind"] == kind
    return str(job["error"]["detail"])


def log_of(farm: Farm) -> str:
    (job,) = farm.ok("GET", "/jobs")["items"]
    with farm.database.read() as session:
        (attempt,) = jobs.attempts(session, job["id"])
    return attempt.log


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


def test_searches_subnets_and_calibrations_share_what_is_the_same(farm: Farm, supernet: str) -> None:
    compute, here, arch = compute_of(farm), Here(), tiny_space().largest()
    at_hand = Stock(compute).get(supernet)
    found = export_subnet(compute, here, at_hand, arch, "search")
    assert ask(farm, supernet)["status"] == "succeeded"
    assert export_subnet(compute, Never(), at_hand, arch, "subnet").id == found.id
    timed = export_for_timing(compute, here, at_hand, arch)
    assert timed.sha256 != found.sha256, "its norms are as cut"
    assert export_for_timing(compute, Never(), at_hand, arch).id == timed.id
    assert timed.export_key != found.export_key


def test_a_model_whose_file_is_gone_is_exported_again(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    here = Here()
    assert work_off(farm, here) == 1
    (model,) = farm.ok("GET", "/models")["items"]
    farm.blobs.path(model["sha256"]).unlink()
    assert ask(farm, supernet)["status"] == "queued" and work_off(farm, here) == 1
    assert farm.call("GET", model["download_url"]).status_code == 200
    assert [each["id"] for each in farm.ok("GET", "/models")["items"]] == [model["id"]]


def test_the_key_holds_what_decides_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, smallest = tiny_space().largest(), tiny_space().smallest()

    def of(arch: Arch = largest, sha256: str = "0" * 64, table: str | None = "2" * 64, **more: Any) -> str:  # noqa: ANN401
        decides: dict[str, Any] = {"precision": "float32", "judged": True} | more
        return key.export_key(arch, sha256, table, **decides)

    keys = [of(), of(smallest), of(sha256="1" * 64), of(precision="int8"), of(judged=False), of(seed=1)]
    keys += [of(table=None), of(table="3" * 64)]
    assert of(judged=False) == of(judged=False, table=None), "unjudged files tell no accuracy"
    monkeypatch.setattr(key, "package_versions", lambda: {"torch": "0"})
    keys.append(of())
    monkeypatch.setattr(key, "code_sha256", lambda: "another")
    keys.append(of())
    assert len(set(keys)) == len(keys) and of() == of()


def test_the_code_of_exports_is_part_of_the_key() -> None:
    root = Path(elasticvit.__file__).parents[1]
    places = ("elasticvit/**/*.py", "elasticvit/export/recipes/*.json", "server/exporting/*.py")
    due = {path.relative_to(root).as_posix(): path for place in places for path in root.glob(place)}
    due["server/execution/stock.py"] = root / "server/execution/stock.py"
    assert key.code_files() == due
    assert {"elasticvit/export/api.py", "elasticvit/export/recipes/small.json", "server/exporting/work.py"} <= set(due)


def test_the_hash_of_the_code_is_of_names_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for name, content in (("a.py", "1"), ("b.py", "1"), ("a.py", "2")):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(key, "code_files", lambda name=name: {name: tmp_path / name})
        key.code_sha256.cache_clear()
        seen.add(key.code_sha256())
    key.code_sha256.cache_clear()
    assert len(seen) == 3 and {len(each) for each in seen} == {64}


def test_a_table_that_gains_a_row_is_told_while_everything_is_warm(farm: Farm, supernet: str, tmp_path: Path) -> None:
    """The weights are not loaded again."""
    here, arch = Here(), tiny_space().decode(tiny_space().sample(np.random.default_rng(9), 1)[0])
    executor = Executor(compute_of(farm), here, here)

    def exported() -> Any:  # noqa: ANN401
        asked = ask(farm, supernet, arch)
        assert asked["status"] == "queued"
        with farm.database.write() as session:
            claimed = jobs.claim_compute(session, "by-hand", (JobKind.SUBNET,), farm.clock())
        assert claimed is not None
        worker.do(Task(compute_of(farm), claimed, threading.Event()), executor.execute)
        return farm.ok("GET", farm.ok("GET", asked["url"])["result"]["url"])

    assert exported()["accuracy"]["source"] == "predicted"
    before = here._shelf._kept.copy()
    table = AccuracyTable.load(tmp_path / "tiny.accuracy.jsonl")
    code = table.space.encode(arch)[None]
    append(farm.home / "supernets" / f"{supernet}.accuracy.jsonl", table.space, table.images, code, [0.125])
    model = exported()
    assert model["accuracy"] == model["manifest"]["accuracy"] == {"value": 0.125, "source": "measured"}
    ((_, old),), ((_, new),) = before.items(), here._shelf._kept.items()
    assert new is not old and new.net is old.net


def test_images_are_kept_for_the_sides_that_were_used_last(farm: Farm, supernet: str) -> None:
    at_hand = Stock(compute_of(farm)).get(supernet)
    first, again = at_hand._calibration_at(32), at_hand._calibration_at(32)
    assert again is first and first.shape[-1] == 32
    for side in (48, 32, 64):
        at_hand._calibration_at(side)
    assert list(at_hand._sized) == [32, 64] and at_hand._sized[32] is first


def test_two_workers_that_export_the_same_store_one_model(farm: Farm, supernet: str) -> None:
    """Both have looked for it before either has made it."""
    together, arch = threading.Barrier(2), tiny_space().largest()
    found: list[str] = []

    def work() -> None:
        compute = compute_of(farm)
        exporter = Meddled(Here(), "extracting", lambda: void(together.wait(30)))
        at_hand = Stock(compute).get(supernet)
        found.append(export_subnet(compute, exporter, at_hand, arch, "subnet").id)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and len(set(found)) == 1
    assert len(farm.ok("GET", "/models")["items"]) == 1 and farm.blob_count() == 1


def void(_value: object) -> None:
    return


def test_what_was_exported_without_images_is_made_anew_where_they_are_at_hand(farm: Farm, tmp_path: Path) -> None:
    """As the worker finds at its start."""
    far = served(farm, supernet_file(tmp_path / "far.safetensors", data=NOWHERE))
    near = served(farm, supernet_file(tmp_path / "near.safetensors", data="digits"))
    arch = tiny_space().decode(tiny_space().sample(np.random.default_rng(9), 1)[0])
    for name in (far, near):
        compute, at_hand = compute_of(farm), Stock(compute_of(farm)).get(name)
        model = export_subnet(compute, _Blind(Here()), at_hand, arch, "subnet")
        assert model.accuracy["source"] == "predicted"
        assert ask(farm, name, arch)["status"] == "succeeded"
    with farm.database.read() as session:
        assert {row.name for row in models.with_unmeasured(session)} == {far, near}
    warm(compute_of(farm), Here(), threading.Event())
    assert ask(farm, far, arch)["status"] == "succeeded"
    asked = ask(farm, near, arch)
    assert asked["status"] == "queued" and work_off(farm, Here()) == 1
    model_id = farm.ok("GET", asked["url"])["result"]["model_id"]
    assert farm.ok("GET", f"/models/{model_id}")["accuracy"]["source"] == "measured"
    assert ask(farm, near, arch)["status"] == "succeeded"


def test_what_a_precision_changes_is_measured_anew_where_images_are_at_hand(farm: Farm, tmp_path: Path) -> None:
    """Also of a network whose accuracy stands in the table."""
    near = served(farm, supernet_file(tmp_path / "near.safetensors", data="digits"))
    compute = compute_of(farm)
    at_hand = Stock(compute).get(near)
    arch, blind = at_hand.space.decode(at_hand.table.codes[0]), _Blind(Here())
    whole, half = (
        export_subnet(compute, blind, at_hand, arch, "subnet", precision=precision)
        for precision in ("float32", "float16")
    )
    assert whole.accuracy["source"] == half.accuracy["source"] == "measured"
    assert whole.manifest["top1_change"] is half.manifest["top1_change"] is None
    with farm.database.read() as session:
        assert [row.name for row in models.with_unmeasured(session)] == [near]
    warm(compute, Here(), threading.Event())
    assert ask(farm, near, arch)["status"] == "succeeded", "there is nothing to measure of it"
    asked = ask(farm, near, arch, precision="float16", max_accuracy_drop=1.0)
    assert asked["status"] == "queued" and work_off(farm, Here()) == 1
    model = farm.ok("GET", farm.ok("GET", asked["url"])["result"]["url"])
    assert model["manifest"]["top1_change"]["source"].startswith("measured") and model["id"] != half.id
    with farm.database.read() as session:
        assert models.with_unmeasured(session) == []


UNMEASURED = [
    ("float32", "measured", None, True),
    ("float32", "predicted", None, False),
    ("float32", None, None, False),
    ("int8", "measured", None, False),
    ("int8", "measured", "mean of 20 other networks of tiny (recipe small@1)", False),
    ("int8", "measured", "measured on held-out images of digits", True),
    ("int8", "predicted", "measured on held-out images of digits", False),
]


def test_only_what_was_measured_is_found_again(farm: Farm) -> None:
    supernet = farm.supernet()
    with farm.database.write() as session:
        for number, (precision, source, change, _) in enumerate(UNMEASURED):
            models.store(
                session,
                farm.blobs,
                file=bytes([number]),
                source="subnet",
                now=farm.clock(),
                manifest={"top1_change": None if change is None else {"value": 0.0, "images": 1, "source": change}},
                precision=precision,
                accuracy=Accuracy.model_validate({"value": source and 0.5, "source": source}),
                supernet=supernet,
                export_key=f"{number}",
            )
        models.forget_unmeasured(session, supernet)
    with farm.database.read() as session:
        found = [models.exported(session, farm.blobs, f"{number}") is not None for number in range(len(UNMEASURED))]
    assert found == [stays for *_, stays in UNMEASURED]


class _Costly:
    """An exporter whose files are said to cost so much."""

    def __init__(self, change: float | None) -> None:
        self._change, self._exporter = change, Here()

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        product = self._exporter.run(order, watch)
        change = self._change and {"value": self._change, "images": 100, "source": "measured on something"}
        return replace(product, manifest={**(product.manifest or {}), "top1_change": change})


def test_a_precision_that_costs_too_much_is_refused(farm: Farm, supernet: str) -> None:
    asked = ask(farm, supernet, precision="float16")
    assert asked["status"] == "queued" and work_off(farm, _Costly(-0.03)) == 1
    assert "0.0300 of top-1 (measured on something)" in only_failure(farm, "user")


def test_what_was_exported_before_is_refused_where_it_costs_too_much(farm: Farm, supernet: str) -> None:
    """By the queue, and without another export."""
    first = ask(farm, supernet, precision="float16", max_accuracy_drop=0.03)
    assert work_off(farm, _Costly(-0.03)) == 1 and farm.ok("GET", first["url"])["status"] == "succeeded"
    bounds: list[tuple[dict[str, Any], bool]]
    bounds = [({}, False), ({"max_accuracy_drop": 0.029}, False), ({"max_accuracy_drop": 0.03}, True)]
    for more, allowed in bounds:
        again = ask(farm, supernet, precision="float16", **more)
        assert again["status"] == ("succeeded" if allowed else "queued")
        assert work_off(farm, Never()) == (0 if allowed else 1)
        job = farm.ok("GET", again["url"])
        assert job["status"] == ("succeeded" if allowed else "failed")
        if not allowed:
            assert job["error"]["kind"] == "user" and "max_accuracy_drop" in job["error"]["detail"]
    assert len(farm.ok("GET", "/models")["items"]) == 1


@pytest.mark.parametrize("change", [None, 0.5, -0.01])
def test_what_costs_no_more_than_a_point_or_nothing_known_is_answered(
    farm: Farm, supernet: str, change: float | None
) -> None:
    asked = ask(farm, supernet, precision="float16")
    work_off(farm, _Costly(change))
    assert farm.ok("GET", asked["url"])["status"] == "succeeded"


class _Blind:
    """An exporter on a machine without images."""

    def __init__(self, exporter: Here) -> None:
        self._exporter = exporter

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        self._exporter._shelf.get(order).__dict__["images"] = None
        return self._exporter.run(order, watch)


def test_without_any_images_a_subnet_keeps_the_norms_of_the_file(farm: Farm, tmp_path: Path) -> None:
    supernet = served(farm, damaged(tmp_path / "bare.safetensors", lambda state: None))
    asked = ask(farm, supernet)
    assert work_off(farm, Here()) == 1
    done = farm.ok("GET", asked["url"])
    assert done["status"] == "succeeded", done["error"]
    model = farm.ok("GET", done["result"]["url"])
    assert model["accuracy"] == {"value": None, "source": None} and model["manifest"]["accuracy"] is None
    assert "recalibrated" in done["result"]["warning"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_export_is_one_failed_job(
    farm: Farm, supernet: str, child: ChildExporter, number: signal.Signals
) -> None:
    ask(farm, supernet)

    def kill() -> None:
        assert child.pid is not None
        os.kill(child.pid, number)

    assert work_off(farm, Meddled(child, "writing and checking", kill)) == 1
    assert number.name in only_failure(farm, "infra")
    assert ("Segmentation fault" in log_of(farm)) == (number is signal.SIGSEGV)
    nothing_stored(farm)
    assert ask(farm, supernet)["status"] == "queued" and work_off(farm, child) == 1
    assert len(farm.ok("GET", "/models")["items"]) == 1


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(0.01, MEMORY), "ELASTICVIT_EXPORT_TIMEOUT_SECONDS"),
        (Limits(120, 300_000_000), "ELASTICVIT_EXPORT_MEMORY_MB"),
    ],
)
def test_a_limit_that_is_passed_is_one_failed_job(farm: Farm, supernet: str, limits: Limits, says: str) -> None:
    ask(farm, supernet)
    exporter = ChildExporter(limits, kept=False)
    assert work_off(farm, exporter) == 1
    assert says in only_failure(farm, "infra")
    nothing_stored(farm)


def test_what_is_wrong_with_a_supernet_or_an_arch_is_said_once(farm: Farm, tmp_path: Path) -> None:
    here = Here()
    for change, says in ((with_nan, "NaN"), (with_one_image, "2 or more")):
        supernet = served(farm, damaged(tmp_path / f"{says[:1]}.safetensors", change))
        asked = ask(farm, supernet)
        assert work_off(farm, here) == 1
        job = farm.ok("GET", asked["url"])
        assert job["status"] == "failed" and job["error"]["kind"] == "user" and says in job["error"]["detail"]
    outside = ask(farm, served(farm, supernet_file(tmp_path / "b.safetensors", data=NOWHERE)), published("S1"))
    assert work_off(farm, here) == 1
    job = farm.ok("GET", outside["url"])
    assert job["status"] == "failed" and job["error"]["kind"] == "user" and "'b'" in job["error"]["detail"]
    nothing_stored(farm)


def test_a_store_that_cannot_be_written_fails_without_a_model(farm: Farm, supernet: str) -> None:
    asked = ask(farm, supernet)
    blobs = farm.home / "blobs"
    if os.geteuid() == 0:
        blobs.rmdir()
        blobs.symlink_to("/proc/self")  # where not even root may make a file
    else:
        blobs.chmod(0o555)
    work_off(farm, Here())
    job = farm.ok("GET", asked["url"])
    assert job["status"] == "failed" and job["error"]["kind"] == "infra"
    assert "ELASTICVIT_HOME" in job["error"]["detail"] or "cannot be used" in job["error"]["detail"]
    assert farm.ok("GET", "/models")["items"] == [] and len(farm.ok("GET", "/jobs")["items"]) == 1


def test_a_cancelled_job_ends_its_export_and_stores_nothing(farm: Farm, supernet: str, child: ChildExporter) -> None:
    asked = ask(farm, supernet)

    def cancel() -> None:
        farm.ok("POST", f"/jobs/{asked['id']}/cancel")

    assert work_off(farm, Meddled(child, "extracting", cancel)) == 1
    assert farm.ok("GET", asked["url"])["status"] == "cancelled"
    nothing_stored(farm)


def test_a_worker_that_stops_gives_its_export_back(farm: Farm, supernet: str, child: ChildExporter) -> None:
    asked = ask(farm, supernet)
    compute, stop = compute_of(farm), threading.Event()
    with farm.database.write() as session:
        claimed = jobs.claim_compute(session, "by-hand", (JobKind.SUBNET,), farm.clock())
    assert claimed is not None
    executor = Executor(compute, Meddled(child, "extracting", stop.set), child)
    worker.do(Task(compute, claimed, stop), executor.execute)
    assert farm.ok("GET", asked["url"])["status"] == "queued"
    nothing_stored(farm)
    assert work_off(farm, child) == 1 and farm.ok("GET", asked["url"])["status"] == "succeeded"


def converted(farm: Farm, exporter: Exporter, model: dict[str, Any], format: str) -> Any:  # noqa: ANN401
    """The answer to a download, a worker at hand."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            work_off(farm, exporter)
            done.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return farm.call("GET", f"/models/{model['id']}/download", "viewer", params={"format": format})
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_other_formats_are_made_when_they_are_first_asked_for(farm: Farm, supernet: str, format: str) -> None:
    ask(farm, supernet)
    here = Here()
    work_off(farm, here)
    (model,) = farm.ok("GET", "/models")["items"]
    answer = converted(farm, here, model, format)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{models.sha256(answer.content)}"' and len(answer.content) > 10_000
    again = farm.call("GET", f"/models/{model['id']}/download", params={"format": format})
    assert again.content == answer.content, "stored, not made again"
    (job,) = farm.ok("GET", "/jobs?kind=convert")["items"]
    assert job["status"] == "succeeded" and job["model_id"] == model["id"]


def test_while_a_file_is_made_the_answer_is_to_come_back(make_farm: Callable[..., Farm], tmp_path: Path) -> None:
    farm = make_farm(convert_wait_seconds=0.2)
    ask(farm, served(farm, supernet_file(tmp_path / "tiny.safetensors", data=NOWHERE)))
    work_off(farm, Here())
    (model,) = farm.ok("GET", "/models")["items"]
    for _ in range(2):
        answer = farm.call("GET", f"/models/{model['id']}/download", params={"format": "onnx"})
        assert "still being made" in problem(answer, 503, "infra")["detail"]
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after_seconds"] > 0
    (job,) = farm.ok("GET", "/jobs?kind=convert")["items"]
    assert job["status"] == "queued"
    problem(farm.call("POST", "/jobs", json={"kind": "convert", "model_id": model["id"]}), 422)


def test_a_conversion_that_fails_says_why(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    work_off(farm, Here())
    (model,) = farm.ok("GET", "/models")["items"]

    class Full:
        def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
            raise ServerError("no room for it")

    assert "no room" in problem(converted(farm, Full(), model, "pt2"), 500, "infra")["detail"]
    assert farm.ok("GET", "/jobs?kind=convert")["items"][0]["attempts"] == 1


def test_a_model_of_other_weights_is_not_converted(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    work_off(farm, Here())
    (model,) = farm.ok("GET", "/models")["items"]
    file = supernet_file(farm.home / "supernets" / f"{supernet}.safetensors", seed=5, data=NOWHERE)
    bootstrap.register_supernet(farm.database, file, farm.clock)
    assert "POST /subnets" in problem(converted(farm, Never(), model, "onnx"), 409)["detail"]


def stale(farm: Farm, model: dict[str, Any]) -> None:
    """A conversion of it is refused."""
    found = problem(converted(farm, Here(), model, "onnx"), 409)
    assert "export it anew by POST /subnets" in found["detail"]
    assert farm.ok("GET", "/jobs?kind=convert")["items"][0]["error"]["kind"] == "user"


def test_a_model_whose_file_is_another_or_gone_is_not_converted(farm: Farm, supernet: str, tmp_path: Path) -> None:
    ask(farm, supernet)
    work_off(farm, Here())
    (model,) = farm.ok("GET", "/models")["items"]
    other = Here().run(order(supernet_file(tmp_path / "other.safetensors", seed=5, data=NOWHERE)), Meddler())
    farm.blobs.path(model["sha256"]).write_bytes(other.data)
    stale(farm, model)
    farm.blobs.path(model["sha256"]).unlink()
    stale(farm, model)


def test_a_model_of_other_norms_is_not_converted(farm: Farm, tmp_path: Path) -> None:
    """It has those of its supernet's file, as there were no images; now there are."""
    supernet = served(farm, damaged(tmp_path / "bare.safetensors", lambda state: None))
    ask(farm, supernet)
    work_off(farm, Here())
    (model,) = farm.ok("GET", "/models")["items"]
    seeing = Here()
    seeing._shelf.get(order(farm.home / "supernets" / "bare.safetensors")).__dict__["images"] = load_named("digits")
    found = problem(converted(farm, seeing, model, "onnx"), 409)
    assert "export it anew by POST /subnets" in found["detail"]


def test_a_card_is_written_from_the_manifest(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    work_off(farm, Here())
    (model,) = farm.ok("GET", "/models")["items"]
    answer = farm.call("GET", f"/models/{model['id']}/download", params={"format": "card"})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/markdown")
    assert model["arch_id"] in answer.text and TERMS in answer.text
    uploaded = farm.upload()
    for format in ("onnx", "pt2", "card"):
        problem(farm.call("GET", f"/models/{uploaded}/download", params={"format": format}), 404)


def test_an_order_is_what_the_job_asked_for(farm: Farm, supernet: str) -> None:
    """Precision travels from the request to the exporter."""
    seen = []

    class Noted:
        def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
            seen.append(order)
            raise ServerError("enough")

    for precision in ("float32", "float16", "dynamic_int8", "int8"):
        ask(farm, supernet, precision=precision)
    work_off(farm, Noted())
    assert {each.precision for each in seen} == {"float32", "float16", "dynamic_int8", "int8"}
    assert {each.what for each in seen} == {"tflite"} and all(each.judged for each in seen)


def test_a_watch_hears_every_stage(farm: Farm, supernet: str) -> None:
    watch = Meddler()
    compute = compute_of(farm)
    export_subnet(compute, Here(), Stock(compute).get(supernet), tiny_space().smallest(), "subnet", watch=watch)
    assert watch.stages[0] == "loading the supernet" and watch.stages[-1] == "writing and checking"

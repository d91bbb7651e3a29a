"""Exports as jobs: what fails leaves one failed job and nothing in the store."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elasticvit.archs.published import published
from server.compute import worker
from server.compute.exporting.exporter import ChildExporter
from server.compute.exporting.order import ExportTflite
from server.compute.exporting.process import Limits
from server.compute.exports import export_subnet
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Task
from server.errors import ServerError
from server.services import claims, jobs
from server.wire import JobKind
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.compute.exporting_farm import (
    MEMORY,
    LocalExporter,
    Meddled,
    Meddler,
    Never,
    ask,
    compute_of,
    damaged,
    executing,
    log_of,
    nothing_stored,
    only_failure,
    served,
    with_nan,
    with_one_image,
    work_off,
)
from tests.server.server_farm import Farm
from tests.server.supernet_files import supernet_file
from tests.small_disk import forbid_writing


class _Costly:
    """An exporter whose manifests state this change of top-1."""

    def __init__(self, change: float | None) -> None:
        self._change, self._exporter = change, LocalExporter()

    def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
        product = self._exporter.run(order, watch)
        change = self._change and {"value": self._change, "images": 100, "source": "measured on something"}
        return replace(product, manifest={**product.manifest, "top1_change": change})


@pytest.mark.medium
def test_a_precision_that_costs_too_much_is_refused(farm: Farm, supernet: str) -> None:
    job = ask(farm, supernet, precision="float16")
    assert job["status"] == "queued" and work_off(farm, _Costly(-0.03)) == 1
    assert "0.0300 of top-1 (measured on something)" in only_failure(farm, "user")


@pytest.mark.medium
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


@pytest.mark.medium
@pytest.mark.parametrize("change", [None, 0.5, -0.01])
def test_what_costs_no_more_than_a_point_or_nothing_known_is_answered(
    farm: Farm, supernet: str, change: float | None
) -> None:
    job = ask(farm, supernet, precision="float16")
    work_off(farm, _Costly(change))
    assert farm.ok("GET", job["url"])["status"] == "succeeded"


@pytest.mark.medium
def test_without_any_images_a_subnet_keeps_the_norms_of_the_file(farm: Farm, tmp_path: Path) -> None:
    supernet = served(farm, damaged(tmp_path / "bare.safetensors", lambda state: None))
    job = ask(farm, supernet)
    assert work_off(farm, LocalExporter()) == 1
    done = farm.ok("GET", job["url"])
    assert done["status"] == "succeeded", done["error"]
    model = farm.ok("GET", done["result"]["url"])
    assert set(model["accuracy"].values()) == {None} and model["manifest"]["accuracy"] is None
    assert "recalibrated" in done["result"]["warning"]


@pytest.mark.medium
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


@pytest.mark.medium
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


@pytest.mark.medium
def test_an_invalid_supernet_or_arch_fails_as_the_users_fault(farm: Farm, tmp_path: Path) -> None:
    here = LocalExporter()
    for change, says in ((with_nan, "NaN"), (with_one_image, "2 or more")):
        supernet = served(farm, damaged(tmp_path / f"{says[:1]}.safetensors", change))
        queued = ask(farm, supernet)
        assert work_off(farm, here) == 1
        job = farm.ok("GET", queued["url"])
        assert job["status"] == "failed" and job["error"]["kind"] == "user" and says in job["error"]["detail"]
    outside = {"arch": published("S1").to_json(), "supernet": served(farm, supernet_file(tmp_path / "b.safetensors"))}
    with farm.database.write() as session:  # as older versions queued it
        job_id = jobs.enqueue(session, kind=JobKind.SUBNET, now=farm.clock(), payload=outside).id
    assert work_off(farm, here) == 1
    job = farm.ok("GET", f"/jobs/{job_id}")
    assert job["status"] == "failed" and job["error"]["kind"] == "user" and "'b'" in job["error"]["detail"]
    nothing_stored(farm)


@pytest.mark.medium
def test_a_store_that_cannot_be_written_fails_without_a_model(farm: Farm, supernet: str) -> None:
    queued = ask(farm, supernet)
    forbid_writing(farm.home / "blobs")
    for _ in range(3):
        assert work_off(farm, LocalExporter()) == 1
        farm.clock.pass_seconds(60)  # each further attempt is delayed
    job = farm.ok("GET", queued["url"])
    assert job["status"] == "failed" and job["error"]["kind"] == "infra"
    assert "ELASTICVIT_HOME" in job["error"]["detail"] or "cannot be used" in job["error"]["detail"]
    assert farm.ok("GET", "/models")["items"] == [] and len(farm.ok("GET", "/jobs")["items"]) == 1


@pytest.mark.medium
def test_a_cancelled_job_ends_its_export_and_stores_nothing(farm: Farm, supernet: str, child: ChildExporter) -> None:
    job = ask(farm, supernet)

    def cancel() -> None:
        farm.ok("POST", f"/jobs/{job['id']}/cancel")

    assert work_off(farm, Meddled(child, "extracting", cancel)) == 1
    assert farm.ok("GET", job["url"])["status"] == "cancelled"
    nothing_stored(farm)


@pytest.mark.medium
def test_a_worker_that_stops_gives_its_export_back(farm: Farm, supernet: str, child: ChildExporter) -> None:
    job = ask(farm, supernet)
    compute, stop = compute_of(farm), threading.Event()
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "by-hand", (JobKind.SUBNET,), farm.clock())
    assert claimed is not None
    worker.run_job(Task(compute, claimed, stop), executing(compute, Meddled(child, "extracting", stop.set)))
    assert farm.ok("GET", job["url"])["status"] == "queued"
    nothing_stored(farm)
    assert work_off(farm, child) == 1 and farm.ok("GET", job["url"])["status"] == "succeeded"


@pytest.mark.medium
def test_an_order_has_the_precision_of_the_request(farm: Farm, supernet: str) -> None:
    """Precision travels from the request to the exporter."""
    seen = []

    class Noted:
        def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
            seen.append(order)
            raise ServerError("enough")

    for precision in ("float32", "float16", "dynamic_int8", "int8"):
        ask(farm, supernet, precision=precision)
    work_off(farm, Noted())
    assert all(isinstance(order, ExportTflite) and order.recalibrate for order in seen)
    assert {order.precision for order in seen} == {"float32", "float16", "dynamic_int8", "int8"}


def test_a_watch_hears_every_stage(farm: Farm, supernet: str) -> None:
    watch = Meddler()
    compute = compute_of(farm)
    export_subnet(
        compute, LocalExporter(), SupernetCache(compute).get(supernet), tiny_space().smallest(), "subnet", watch=watch
    )
    assert watch.stages[0] == "loading the supernet" and watch.stages[-1] == "writing and checking"

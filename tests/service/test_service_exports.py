"""Exports in a running service: processes killed, limits passed, workers stopped and doubled, every precision."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import elasticvit as elasticvit_package
from elasticvit.archs.space import small
from tests.service.conftest import copy
from tests.service.service_farm import (
    PATIENCE_SECONDS,
    Service,
    check_nothing_left,
    elasticvit,
    free_port,
    processes,
    rows,
    wait_until,
)

LARGEST = small(10).largest().to_json()
SMALLEST = small(10).smallest().to_json()
ANY_DROP = {"max_accuracy_drop": 1.0}
SHIPPED = Path(elasticvit_package.__file__).parent / "pretrained" / "cifar10.safetensors"


@pytest.fixture
def serve(bare_home: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """A server and workers on a home of their own, without a device."""
    services: list[Service] = []

    def begin(workers: int = 1, **more: str) -> Service:
        service = Service(copy(bare_home, tmp_path / "home"), free_port(), more=more)
        services.append(service)
        for _ in range(workers):
            service.start(*elasticvit("worker"))
        service.start(*elasticvit("serve"))
        service.wait_serving()
        return service

    yield begin
    for service in services:
        service.end()


def subnet(service: Service, arch: str, **more: Any) -> str:  # noqa: ANN401
    return str(service.ok("POST", "/subnets", json={"arch": arch, **more})["url"])


def exporting(service: Service) -> list[int]:
    return [pid for pid, command in processes(service.home).items() if "server.compute.exporting.child" in command]


def until_at_work(service: Service, url: str) -> None:
    service.until(url, lambda job: (job["progress"] or {}).get("stage") == "recalibrating", "recalibration")


def no_models(service: Service) -> None:
    assert [model["source"] for model in service.ok("GET", "/models")["items"]] == ["anchor"]


@pytest.mark.long
@pytest.mark.slow
def test_an_export_is_tried_in_another_process_once_and_the_next_one_succeeds(serve: Callable[..., Service]) -> None:
    service = serve()
    url = subnet(service, LARGEST)
    until_at_work(service, url)
    (first,) = exporting(service)
    os.kill(first, signal.SIGKILL)
    service.until(url, lambda _job: bool(exporting(service)) and first not in exporting(service), "second try")
    until_at_work(service, url)
    (killed,) = exporting(service)
    os.kill(killed, signal.SIGKILL)
    job = service.wait(url)
    assert job["status"] == "failed" and job["attempts"] == 1, job
    assert job["error"]["kind"] == "infra" and "SIGKILL" in job["error"]["detail"]
    no_models(service)
    again = service.wait(subnet(service, LARGEST))
    assert again["status"] == "succeeded", f"{again['error']}\n{service.log_tails()}"
    assert killed not in exporting(service)
    service.stop()
    check_nothing_left(service.home)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value"), [("EXPORT_TIMEOUT_SECONDS", "0.01"), ("EXPORT_MEMORY_MB", "300")], ids=["time", "memory"]
)
def test_a_limit_that_is_passed_fails_with_the_setting_to_raise(
    serve: Callable[..., Service], setting: str, value: str
) -> None:
    service = serve(**{setting: value})
    job = service.wait(subnet(service, LARGEST))
    assert job["status"] == "failed" and job["attempts"] == 1, job
    assert job["error"]["kind"] == "infra" and f"ELASTICVIT_{setting}" in job["error"]["detail"]
    no_models(service)
    service.stop()
    check_nothing_left(service.home)


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_that_is_stopped_ends_its_export_and_the_next_goes_on(serve: Callable[..., Service]) -> None:
    service = serve()
    url = subnet(service, LARGEST)
    until_at_work(service, url)
    worker = service.main
    os.killpg(worker.pid, signal.SIGTERM)
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert exporting(service) == []
    assert service.ok("GET", url)["status"] == "queued"
    no_models(service)
    service.start(*elasticvit("worker"))
    assert service.wait(url)["status"] == "succeeded"


@pytest.mark.slow
def test_a_killed_worker_leaves_no_exporting_process(serve: Callable[..., Service]) -> None:
    service = serve()
    until_at_work(service, subnet(service, LARGEST))
    os.kill(service.main.pid, signal.SIGKILL)
    wait_until("end of the exporting process", lambda: exporting(service) == [])
    no_models(service)


@pytest.mark.long
@pytest.mark.slow
def test_two_workers_that_export_the_same_store_one_model(serve: Callable[..., Service]) -> None:
    service = serve(workers=2)
    # Both are warm, so that neither is much ahead of the other.
    for arch in (SMALLEST, small(10).smallest().id):
        service.wait(subnet(service, arch))
    wait_until("two exporting processes", lambda: len(exporting(service)) == 2)
    done = [service.wait(url) for url in [subnet(service, LARGEST) for _ in range(4)]]
    assert {job["status"] for job in done} == {"succeeded"}, service.log_tails()
    assert len({job["result"]["model_id"] for job in done}) == 1
    stored = rows(service.home, "SELECT id FROM model WHERE arch_id = ?", small(10).largest().id)
    assert len(stored) == 1
    owners = rows(service.home, "SELECT DISTINCT owner FROM attempt WHERE job_id IN (SELECT id FROM job)")
    assert len(owners) == 2, "both had work"


@pytest.mark.long
@pytest.mark.slow
def test_every_precision_is_exported_and_found_again(serve: Callable[..., Service]) -> None:
    service = serve()
    # The one that ships, since int8 asks for a network whose activations have ranges.
    service.ok("POST", "/supernets", json={"path": str(SHIPPED)})
    seen = {}
    for precision in ("float32", "float16", "dynamic_int8", "int8"):
        job = service.wait(subnet(service, SMALLEST, precision=precision, supernet=SHIPPED.stem, **ANY_DROP))
        assert job["status"] == "succeeded", f"{precision}: {job['error']}\n{service.log_tails()}"
        model = service.ok("GET", job["result"]["url"])
        assert model["precision"] == model["manifest"]["precision"] == precision
        request = {"arch": json.loads(SMALLEST), "precision": precision, "supernet": SHIPPED.stem} | ANY_DROP
        again = service.ok("POST", "/subnets", json=request)
        assert again["status"] == "succeeded"
        assert service.ok("GET", again["url"])["result"]["model_id"] == model["id"]
        seen[precision] = model["size_bytes"]
    assert seen["int8"] < seen["float16"] < seen["float32"] and seen["dynamic_int8"] < seen["float32"]
    refused = service.call("GET", f"{model['url']}/download", params={"format": "onnx"})
    assert refused.status_code == 404 and "float32" in refused.json()["detail"]

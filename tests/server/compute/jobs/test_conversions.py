"""Models in other formats, made at their first request, and cards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elasticvit.data.image_set import load_named
from server.compute.exporting.order import Exporter
from server.errors import ServerError
from server.services import models, supernet_files
from tests.server.compute.exporting_farm import (
    NOWHERE,
    LocalExporter,
    Meddler,
    Never,
    ask,
    damaged,
    export,
    served,
    work_off,
)
from tests.server.server_farm import Farm, problem
from tests.server.supernet_files import TERMS, supernet_file


def converted(farm: Farm, exporter: Exporter, model: dict[str, Any], format: str) -> Any:  # noqa: ANN401
    """The answer to a download, while a worker runs."""
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
@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.long), "pt2"])
def test_other_formats_are_made_at_the_first_request(farm: Farm, supernet: str, format: str) -> None:
    ask(farm, supernet)
    here = LocalExporter()
    work_off(farm, here)
    (model,) = farm.ok("GET", "/models")["items"]
    answer = converted(farm, here, model, format)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{models.sha256(answer.content)}"' and len(answer.content) > 10_000
    again = farm.call("GET", f"/models/{model['id']}/download", params={"format": format})
    assert again.content == answer.content, "stored, not made again"
    (job,) = farm.ok("GET", "/jobs?kind=convert")["items"]
    assert job["status"] == "succeeded" and job["model_id"] == model["id"]


@pytest.mark.medium
def test_while_a_file_is_made_the_answer_is_to_come_back(make_farm: Callable[..., Farm], tmp_path: Path) -> None:
    farm = make_farm(convert_wait_seconds=0.2)
    ask(farm, served(farm, supernet_file(tmp_path / "tiny.safetensors", data=NOWHERE)))
    work_off(farm, LocalExporter())
    (model,) = farm.ok("GET", "/models")["items"]
    for _ in range(2):
        answer = farm.call("GET", f"/models/{model['id']}/download", params={"format": "onnx"})
        assert "still being made" in problem(answer, 503, "infra")["detail"]
        assert int(answer.headers["retry-after"]) == answer.json()["retry_after_seconds"] > 0
    (job,) = farm.ok("GET", "/jobs?kind=convert")["items"]
    assert job["status"] == "queued"
    problem(farm.call("POST", "/jobs", json={"kind": "convert", "model_id": model["id"]}), 422)


@pytest.mark.medium
def test_a_failed_conversion_has_a_reason(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    work_off(farm, LocalExporter())
    (model,) = farm.ok("GET", "/models")["items"]

    class Full:
        def run(self, order: Any, watch: Any) -> Any:  # noqa: ANN401
            raise ServerError("no room for it")

    assert "no room" in problem(converted(farm, Full(), model, "pt2"), 500, "infra")["detail"]
    assert farm.ok("GET", "/jobs?kind=convert")["items"][0]["attempts"] == 1


@pytest.mark.medium
def test_a_model_of_other_weights_is_not_converted(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    work_off(farm, LocalExporter())
    (model,) = farm.ok("GET", "/models")["items"]
    file = supernet_file(farm.home / "supernets" / f"{supernet}.safetensors", seed=5, data=NOWHERE)
    supernet_files.register(farm.database, file, farm.clock())
    assert "POST /subnets" in problem(converted(farm, Never(), model, "onnx"), 409)["detail"]


def stale(farm: Farm, model: dict[str, Any]) -> None:
    """A conversion of it is refused."""
    document = problem(converted(farm, LocalExporter(), model, "onnx"), 409)
    assert "again by POST /subnets" in document["detail"]
    assert farm.ok("GET", "/jobs?kind=convert")["items"][0]["error"]["kind"] == "user"


@pytest.mark.medium
def test_a_model_whose_file_is_another_or_gone_is_not_converted(farm: Farm, supernet: str, tmp_path: Path) -> None:
    ask(farm, supernet)
    work_off(farm, LocalExporter())
    (model,) = farm.ok("GET", "/models")["items"]
    other = LocalExporter().run(export(supernet_file(tmp_path / "other.safetensors", seed=5, data=NOWHERE)), Meddler())
    farm.blobs.path(model["sha256"]).write_bytes(other.data)
    stale(farm, model)
    assert not farm.blobs.path(model["sha256"]).exists(), "it was set aside"
    stale(farm, model)


@pytest.mark.medium
def test_a_model_of_other_norms_is_not_converted(farm: Farm, tmp_path: Path) -> None:
    """It has those of its supernet's file, as there were no images; now there are."""
    supernet = served(farm, damaged(tmp_path / "bare.safetensors", lambda state: None))
    ask(farm, supernet)
    work_off(farm, LocalExporter())
    (model,) = farm.ok("GET", "/models")["items"]
    with_images = LocalExporter(lambda _name: load_named("digits"))
    document = problem(converted(farm, with_images, model, "onnx"), 409)
    assert "export its architecture again by POST /subnets" in document["detail"]


@pytest.mark.medium
def test_a_card_is_written_from_the_manifest(farm: Farm, supernet: str) -> None:
    ask(farm, supernet)
    work_off(farm, LocalExporter())
    (model,) = farm.ok("GET", "/models")["items"]
    answer = farm.call("GET", f"/models/{model['id']}/download", params={"format": "card"})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/markdown")
    assert model["arch_id"] in answer.text and TERMS in answer.text
    uploaded = farm.upload()
    for format in ("onnx", "pt2", "card"):
        problem(farm.call("GET", f"/models/{uploaded}/download", params={"format": format}), 404)

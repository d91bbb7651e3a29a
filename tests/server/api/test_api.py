"""What the API gives: searches, models and their files, tokens, pages, readiness, figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from elasticvit.hashing import file_sha256
from server.services import claims, job_ends, presence
from server.wire import Failure, JobKind
from tests.server.server_farm import Farm, problem, tiny_tflite

BUDGET = {"device": "host", "budget": {"latency_ms": 5.0}}


@pytest.fixture
def ready(farm: Farm) -> Farm:
    farm.supernet()
    farm.predictor()
    return farm


def test_a_search_is_queued_with_all_that_its_worker_needs(ready: Farm) -> None:
    answer = ready.call("POST", "/search", "user", json=BUDGET | {"verify": True, "seed": 7})
    accepted = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == accepted["url"] == f"/searches/{accepted['id']}"
    view = ready.ok("GET", accepted["url"], "viewer")
    assert (view["status"], view["result"], view["error"], view["progress"]) == ("queued", None, None, None)
    assert view["request"]["confidence"] == 0.9 and view["request"]["seed"] == 7
    with ready.database.write() as session:
        claimed = claims.claim_compute(session, "worker", (JobKind.SEARCH,), ready.clock())
    assert claimed is not None
    payload = claimed.job.payload
    assert payload["search_id"] == accepted["id"] and payload["supernet"] == "digits" and payload["predictor_id"]
    assert payload["request"]["budget"] == {"latency_ms": 5.0}
    with ready.database.write() as session:
        failure = Failure(kind="user", detail="the budget cannot be met: ask for more")
        job_ends.fail(session, claimed.lease_id, claimed.attempt, failure, ready.clock())
    view = ready.ok("GET", accepted["url"])
    assert view["status"] == "failed" and view["error"] == {"kind": failure.kind, "detail": failure.detail}


@pytest.mark.medium
def test_a_finished_search_shows_its_models(ready: Farm) -> None:
    accepted = ready.ok("POST", "/search", json=BUDGET)
    latency = {"host": {"predicted_ms": 4.0, "lower_ms": 3.5, "upper_ms": 4.5, "confidence": 0.9}}
    candidate = {
        "arch": {"resolution": 32},
        "arch_id": "0123456789ab",
        "macs": 10,
        "params": 5,
        "accuracy": {"value": 0.9, "source": "measured"},
        "latency": latency,
    }
    model = {**candidate, "model_id": "m", "size_bytes": 3, "download_url": "/models/m/download?format=tflite"}
    result = {"models": [model], "frontier": [candidate], "predictor": None, "supernet": "digits"}
    with ready.database.write() as session:
        claimed = claims.claim_compute(session, "worker", (JobKind.SEARCH,), ready.clock())
        assert claimed is not None
        job_ends.finish(session, claimed.lease_id, 1, result, ready.clock())
    shown = ready.ok("GET", accepted["url"])["result"]["models"][0]
    assert shown["latency"]["host"]["upper_ms"] == 4.5 and shown["latency"]["host"]["verified"] is False


def test_a_search_can_be_cancelled(ready: Farm) -> None:
    url = ready.ok("POST", "/search", "user", json=BUDGET)["url"]
    assert ready.ok("POST", f"{url}/cancel", "user")["status"] == "cancelled"
    problem(ready.call("POST", f"{url}/cancel", "user"), 409)


@pytest.mark.medium
def test_a_queued_search_survives_a_restart(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm()
    farm.supernet()
    farm.predictor()
    url = farm.ok("POST", "/search", json=BUDGET)["url"]
    assert make_farm(farm.clock).ok("GET", url)["status"] == "queued"


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [("/search", BUDGET, {**BUDGET, "count": 2}), ("/subnets", {"arch": "S1"}, {"arch": "S2"})],
)
def test_an_idempotency_key_makes_one_thing(
    ready: Farm, path: str, body: dict[str, Any], other: dict[str, Any]
) -> None:
    def post(body: dict[str, Any], key: str | None, role: str = "user") -> Any:  # noqa: ANN401
        return ready.call("POST", path, role, json=body, headers={"Idempotency-Key": key} if key else {})

    before = len(ready.ok("GET", "/jobs")["items"])
    first, again = post(body, "key-1"), post(body, "key-1")
    assert first.status_code == again.status_code == 202 and first.json() == again.json()
    assert again.headers["location"] == first.headers["location"]
    assert len(ready.ok("GET", "/jobs")["items"]) == before + 1
    problem(post(other, "key-1"), 422)
    assert post(body, "key-2").json() != first.json()
    assert post(body, "key-1", "admin").json() != first.json()
    assert post(body, None).json() != post(body, None).json()
    problem(post(body, "x" * 201), 422)


@pytest.mark.medium
def test_a_refused_request_does_not_use_up_its_key(farm: Farm) -> None:
    headers = {"Idempotency-Key": "key"}
    problem(farm.call("POST", "/search", json=BUDGET, headers=headers), 404)
    farm.supernet()
    farm.predictor()
    assert farm.call("POST", "/search", json=BUDGET, headers=headers).status_code == 202


def test_an_uploaded_model_is_described_and_runs_after_download(farm: Farm) -> None:
    content = tiny_tflite(1.5)
    made = farm.ok("POST", "/models?name=mine", "user", content=content)
    assert (made["source"], made["name"], made["size_bytes"], made["arch"]) == ("upload", "mine", len(content), None)
    assert made["manifest"]["inputs"] == [{"name": "x", "type": "float32", "shape": [1, 4]}]
    assert farm.ok("GET", made["url"], "viewer") == made
    answer = farm.call("GET", made["download_url"], "viewer")
    assert answer.content == content and answer.headers["etag"] == f'"{made["sha256"]}"'
    assert file_sha256(farm.blobs.find(made["sha256"])) == made["sha256"]
    interpreter = Interpreter(model_content=answer.content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 4), np.float32))
    interpreter.invoke()
    assert interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tolist() == [[2.5] * 4]


def test_a_model_can_be_uploaded_as_a_form(farm: Farm) -> None:
    made = farm.ok("POST", "/models", "user", files={"file": ("net.tflite", tiny_tflite())})
    assert made["size_bytes"] == len(tiny_tflite()) and not farm.left_behind()


def test_a_download_is_not_sent_twice(farm: Farm) -> None:
    url = f"/models/{farm.upload()}/download"
    for format in ("tflite", "manifest"):
        first = farm.call("GET", url, params={"format": format})
        etag = first.headers["etag"]
        again = farm.call("GET", url, params={"format": format}, headers={"If-None-Match": f'"other", {etag}'})
        assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == etag
        changed = farm.call("GET", url, params={"format": format}, headers={"If-None-Match": '"other"'})
        assert changed.content == first.content
    assert farm.call("GET", url, params={"format": "manifest"}).json()["operators"] == 1
    assert "format=tflite" in problem(farm.call("GET", url, params={"format": "onnx"}), 404)["detail"]
    problem(farm.call("GET", url, params={"format": "exe"}), 422)
    part = farm.call("GET", url, headers={"Range": "bytes=4-7"})
    assert part.status_code == 206 and part.content == b"TFL3"


def test_lists_come_in_pages_without_gaps(farm: Farm) -> None:
    made = []
    for number in range(5):
        made.append(farm.upload(tiny_tflite(float(number))))
        farm.clock.pass_seconds(1)
    seen: list[str] = []
    token = None
    while True:
        page = farm.ok("GET", "/models", params={"max_results": 2} | ({"page_token": token} if token else {}))
        seen += [item["id"] for item in page["items"]]
        token = page["next_page_token"]
        if token is None:
            break
        made.append(farm.upload(tiny_tflite(100.0 + len(seen))))  # newer ones do not shift the rest
    assert set(seen) == set(made[:5]) and len(seen) == 5


def test_jobs_are_listed_by_what_they_are(ready: Farm) -> None:
    ready.ok("POST", "/search", json=BUDGET)
    assert [job["kind"] for job in ready.ok("GET", "/jobs?status=queued")["items"]] == ["search"]
    assert [job["kind"] for job in ready.ok("GET", "/jobs?kind=measure")["items"]] == ["measure"]
    assert ready.ok("GET", "/jobs?device=other")["items"] == []
    assert [measurement["id"] for measurement in ready.ok("GET", "/measurements?device=host")["items"]]
    assert ready.ok("GET", "/predictors?device=host")["items"][0]["version"] == 1
    assert ready.ok("GET", "/devices/host")["predictor"]["version"] == 1
    assert ready.ok("GET", "/supernets")["items"][0]["is_default"]


@pytest.mark.parametrize("body", [{"kind": "measure", "device": "host"}, {"kind": "calibrate"}, {"kind": "search"}])
def test_an_incomplete_job_is_422(ready: Farm, body: dict[str, Any]) -> None:
    problem(ready.call("POST", "/jobs", json=body), 422)


def test_a_job_for_an_unknown_model_is_404(ready: Farm) -> None:
    problem(ready.call("POST", "/jobs", json={"kind": "measure", "device": "host", "model_id": "model-x"}), 404)


def test_a_calibration_is_queued(ready: Farm) -> None:
    accepted = ready.ok("POST", "/jobs", json={"kind": "calibrate", "device": "host", "count": 8})
    assert ready.ok("GET", accepted["url"])["kind"] == "calibrate"


def test_a_token_is_shown_once(farm: Farm) -> None:
    made = farm.ok("POST", "/tokens", json={"name": "ci", "role": "viewer"})
    listed = farm.ok("GET", "/tokens")
    assert made["token"] not in str(listed) and {token["name"] for token in listed["items"]} == {"first-admin", "ci"}
    for file in farm.home.rglob("farm.db*"):
        assert made["token"].encode() not in file.read_bytes()
    problem(farm.call("POST", "/tokens", json={"name": "ci", "role": "root"}), 422)


@pytest.mark.medium
def test_readiness_names_what_is_missing_until_all_is_there(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(expect_host=True)

    def ready() -> tuple[int, list[str]]:
        answer = farm.call("GET", "/readyz", None)
        return answer.status_code, answer.json()["waiting_for"]

    assert farm.call("GET", "/healthz", None).status_code == 200
    assert ready() == (503, ["supernet", "host_idle", "host_predictor", "worker"])
    with farm.database.write() as session:
        presence.mark(session, presence.Member.of_this_process("worker"), farm.clock())
    assert ready() == (503, ["supernet", "host_idle", "host_predictor"])
    farm.supernet()
    assert ready() == (503, ["host_idle", "host_predictor"])
    agent_id = farm.agent()
    assert ready() == (503, ["host_predictor"])
    farm.predictor()
    farm.measure_job()
    lease = farm.lease(agent_id)
    assert lease is not None and ready() == (503, ["host_idle"])
    farm.report(lease)
    assert ready() == (200, [])
    farm.measure_job()
    assert farm.lease(agent_id) is not None and ready() == (200, [])
    (farm.home / "supernets" / "digits.safetensors").unlink()
    assert ready() == (503, ["supernet"])


def test_figures_for_prometheus(ready: Farm) -> None:
    ready.call("GET", "/nowhere")
    text = ready.call("GET", "/metrics", "viewer").text
    assert 'elasticvit_jobs{kind="measure",status="succeeded"} 1.0' in text
    assert 'elasticvit_jobs{kind="search",status="failed"} 0.0' in text
    assert 'elasticvit_devices{state="idle"} 1.0' in text
    assert 'elasticvit_requests_total{method="POST",route="/leases/{lease_id}/report",status="200"} 1.0' in text
    assert 'route="unknown"' in text and "/nowhere" not in text


def test_every_answer_has_a_request_id(farm: Farm) -> None:
    assert farm.call("GET", "/healthz", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(farm.call("GET", "/nowhere", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]) == 16

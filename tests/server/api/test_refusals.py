"""What the server must refuse, with its status, kind and a sentence, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from elasticvit.archs.space import PRESETS
from tests.elasticvit.training.tiny_training import tiny_space
from tests.server.server_farm import Farm, describe, problem, tiny_tflite


def searched(farm: Farm, role: str | None = "user", **body: Any) -> Any:  # noqa: ANN401
    return farm.call("POST", "/search", role, json={"device": "host", "budget": {"latency_ms": 5.0}} | body)


def count(farm: Farm, path: str) -> int:
    return len(farm.ok("GET", path)["items"])


def test_no_wrong_or_revoked_token_is_401(farm: Farm) -> None:
    assert farm.call("GET", "/devices", None).headers["www-authenticate"] == "Bearer"
    problem(farm.call("GET", "/devices", None), 401)
    problem(farm.client.get("/devices", headers={"Authorization": "Bearer evt_wrong"}), 401)
    problem(farm.client.get("/devices", headers={"Authorization": "Basic dXNlcjpwYXNz"}), 401)
    problem(searched(farm, None), 401)
    made = farm.ok("POST", "/tokens", json={"name": "gone", "role": "viewer"})
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert farm.client.get("/devices", headers=headers).status_code == 200
    farm.ok("DELETE", f"/tokens/{made['id']}")
    problem(farm.client.get("/devices", headers=headers), 401)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("role", "method", "path", "body"),
    [
        ("viewer", "POST", "/search", {"device": "host", "budget": {"latency_ms": 5}}),
        ("viewer", "POST", "/subnets", {"arch": "x"}),
        ("viewer", "POST", "/jobs", {"kind": "calibrate", "device": "host"}),
        ("viewer", "POST", "/leases", {"agent_id": "x", "devices": []}),
        ("user", "POST", "/agents/register", {"name": "x", "version": "1", "devices": []}),
        ("user", "POST", "/tokens", {"name": "x", "role": "admin"}),
        ("agent", "POST", "/search", {"device": "host", "budget": {"latency_ms": 5}}),
        ("agent", "GET", "/jobs", None),
        ("agent", "GET", "/tokens", None),
    ],
)
def test_an_under_privileged_token_is_403(farm: Farm, role: str, method: str, path: str, body: Any) -> None:  # noqa: ANN401
    assert role in problem(farm.call(method, path, role, json=body), 403)["detail"]
    assert count(farm, "/jobs") == 0 and count(farm, "/searches") == 0


def test_an_unknown_device_is_404_and_the_known_ones_are_named(farm: Farm) -> None:
    farm.agent(devices=("host", "pixel4"))
    document = problem(searched(farm, device="nokia3310"), 404)
    assert document["known"] == ["host", "pixel4"] and "pixel4" in document["detail"]
    problem(farm.call("POST", "/jobs", json={"kind": "calibrate", "device": "nokia3310"}), 404)
    problem(farm.call("GET", "/devices/nokia3310"), 404)
    assert count(farm, "/jobs") == 0


@pytest.mark.medium
@pytest.mark.parametrize(
    "budget", ["-1", "0", "NaN", "Infinity", "-Infinity", "1e308", "60001", '"21"', "true", "null", "[1]", "1e999"]
)
def test_an_absurd_budget_is_422(farm: Farm, budget: str) -> None:
    farm.supernet()
    farm.predictor()
    text = f'{{"device": "host", "budget": {{"latency_ms": {budget}}}}}'
    answer = farm.call("POST", "/search", "user", content=text, headers={"Content-Type": "application/json"})
    assert "budget.latency_ms" in problem(answer, 422)["detail"]
    assert count(farm, "/searches") == 0


@pytest.mark.medium
@pytest.mark.parametrize(
    "change",
    [
        {"confidence": 0.4},
        {"confidence": 1.0},
        {"statistic": "p99"},
        {"count": 0},
        {"count": 51},
        {"count": 1.5},
        {"precision": "float8"},
        {"precision": None},
        {"seed": -1},
        {"max_macs": 0},
        {"verify": "maybe"},
        {"budget": {"latency_ms": 5, "energy_mj": 3}},
        {"devices": []},
        {"budget": None},
        {"devices": [{"device": "host", "budget": {"latency_ms": 5}}]},
    ],
)
def test_a_value_out_of_range_is_422(farm: Farm, change: dict[str, Any]) -> None:
    problem(searched(farm, **change), 422)


@pytest.mark.medium
@pytest.mark.parametrize("max_drop", [-0.01, 1.1, "0.1", None, float("nan")])
def test_an_accuracy_drop_of_a_subnet_is_a_fraction(farm: Farm, max_drop: Any) -> None:  # noqa: ANN401
    farm.supernet()
    text = json.dumps({"arch": "S1", "max_accuracy_drop": max_drop})
    answer = farm.call("POST", "/subnets", "user", content=text, headers={"Content-Type": "application/json"})
    assert "max_accuracy_drop" in problem(answer, 422)["detail"]
    assert count(farm, "/jobs") == 0


TEN_LIST = tiny_space().smallest().to_moonlit()


@pytest.mark.parametrize(
    ("arch", "status", "reason"),
    [
        ("S1", 422, "'tiny' does not contain this architecture"),
        (PRESETS["small"]().largest().to_moonlit(), 422, "'tiny' does not contain this architecture"),
        ("S9", 404, "GET /models"),
        ("0123456789ab", 404, "GET /models"),
        ({"resolution": 32}, 422, "not an architecture"),
        ("{" * 20_000, 422, "not an architecture"),
        ([1, 2, 3], 422, "not a 10-list"),
        ([*TEN_LIST[:2], [sum(TEN_LIST[2][:3]) + 1, -2, 1, *TEN_LIST[2][3:]], *TEN_LIST[3:]], 422, "depths"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_architecture_of_the_supernet_is_refused_before_anything_is_queued(
    farm: Farm, supernet: str, arch: object, status: int, reason: str
) -> None:
    body, headers = {"arch": arch, "supernet": supernet}, {"Idempotency-Key": "one"}
    assert reason in problem(farm.call("POST", "/subnets", "user", json=body, headers=headers), status)["detail"]
    assert count(farm, "/jobs") == 0
    accepted = farm.call("POST", "/subnets", "user", json={"arch": TEN_LIST, "supernet": supernet}, headers=headers)
    assert accepted.status_code == 202


def test_an_emulated_device_is_not_calibrated(farm: Farm) -> None:
    """Its times never enter a predictor, so the job could only fail."""
    farm.supernet()
    body = {"name": "beside-phones", "version": "1", "devices": [describe("pixel", "emulated"), describe("host")]}
    farm.ok("POST", "/agents/register", "agent", json=body)
    refused = problem(farm.call("POST", "/jobs", "user", json={"kind": "calibrate", "device": "pixel"}), 422)
    assert "emulated" in refused["detail"] and count(farm, "/jobs") == 0
    assert farm.call("POST", "/jobs", "user", json={"kind": "calibrate", "device": "host"}).status_code == 202
    farm.measure_job("pixel")


def test_unknown_fields_are_named(farm: Farm) -> None:
    document = problem(searched(farm, latency_budget=3), 422)
    assert document["errors"] == [{"field": "latency_budget", "message": "unknown field"}]


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic_int8", "int8"])
def test_every_precision_is_taken(farm: Farm, precision: str) -> None:
    farm.supernet()
    farm.predictor()
    answer = searched(farm, precision=precision)
    assert answer.status_code == 202
    assert farm.ok("GET", answer.json()["url"])["request"]["precision"] == precision


def test_fleets_are_not_implemented(farm: Farm) -> None:
    target = {"budget": {"latency_ms": 5}}
    fleet = {"devices": [{"device": "host", **target}, {"device": "pixel4", **target}]}
    assert "not supported yet" in problem(farm.call("POST", "/search", json=fleet), 422)["detail"]


@pytest.mark.medium
@pytest.mark.parametrize("more", [{"max_peak_memory_mb": 100.0}, {"max_peak_memory_mb": 100.0, "max_size_mb": 5.0}])
def test_a_bound_on_memory_is_refused_before_anything_is_queued(farm: Farm, more: dict[str, Any]) -> None:
    farm.supernet()
    farm.predictor()
    before = count(farm, "/jobs")
    assert '"max_size_mb"' in problem(searched(farm, **more), 422)["detail"]
    assert count(farm, "/searches") == 0 and count(farm, "/jobs") == before


@pytest.mark.medium
def test_a_fleet_of_one_is_a_search(farm: Farm) -> None:
    farm.supernet()
    farm.predictor()
    fleet = {"devices": [{"device": "host", "budget": {"latency_ms": 5}}]}
    assert farm.call("POST", "/search", json=fleet).status_code == 202


def test_without_a_supernet_a_search_is_409(farm: Farm) -> None:
    farm.agent()
    assert "supernet" in problem(searched(farm), 409)["detail"]


def test_without_a_predictor_a_search_is_409_unless_an_estimate_will_do(farm: Farm) -> None:
    farm.agent()
    farm.supernet()
    detail = problem(searched(farm), 409)["detail"]
    assert "calibrate" in detail and "allow_uncalibrated" in detail
    assert searched(farm, allow_uncalibrated=True).status_code == 202


@pytest.mark.medium
def test_an_infeasible_budget_is_422_with_the_smallest_reachable(farm: Farm) -> None:
    farm.supernet()
    farm.predictor(smallest_ms=2.0)
    document = problem(searched(farm, budget={"latency_ms": 2.1}), 422)
    assert document["smallest_ms"] == pytest.approx(2.2) and document["binding"] == "latency_ms"
    assert problem(searched(farm, budget={"latency_ms": 2.1}, statistic="p90"), 422)["smallest_ms"] == pytest.approx(
        2.4
    )
    assert problem(searched(farm, budget={"latency_ms": 2.1}, confidence=0.95), 422)["smallest_ms"] == pytest.approx(
        2.6
    )
    assert count(farm, "/searches") == 0
    assert searched(farm, budget={"latency_ms": 2.21}).status_code == 202


def test_an_unknown_supernet_is_404(farm: Farm) -> None:
    farm.supernet()
    farm.agent()
    assert "digits" in problem(searched(farm, supernet="imagenet"), 404)["detail"]


@pytest.mark.medium
@pytest.mark.parametrize("how", ["body", "form"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_upload_is_422_and_leaves_nothing(farm: Farm, share: float, how: str) -> None:
    whole = tiny_tflite()
    cut = whole[: int(len(whole) * share)]
    sent: dict[str, Any] = {"content": cut} if how == "body" else {"files": {"file": ("m.tflite", cut)}}
    problem(farm.call("POST", "/models", "user", **sent), 422)
    assert count(farm, "/models") == 0 and farm.blob_count() == 0 and not farm.left_behind()


@pytest.mark.medium
@pytest.mark.parametrize(
    "content",
    [b"GIF89a" + bytes(100), b"\0\0\0\0TFL3" + b"\xff" * 200, b"\xff\xff\xff\x7fTFL3" + bytes(64), bytes(5000)],
)
def test_an_upload_that_is_no_tflite_is_422(farm: Farm, content: bytes) -> None:
    problem(farm.call("POST", "/models", "user", content=content), 422)
    assert farm.blob_count() == 0 and not farm.left_behind()


def test_a_form_without_a_file_is_422(farm: Farm) -> None:
    answer = farm.call("POST", "/models", "user", files={"model": b"x"})
    assert "file" in problem(answer, 422)["detail"]


@pytest.mark.parametrize("how", ["body", "form", "pieces"])
def test_a_model_too_large_is_413_and_leaves_nothing(make_farm: Callable[..., Farm], how: str) -> None:
    farm = make_farm(max_upload_mb=0.5)
    large = tiny_tflite() + bytes(900_000)
    ways: dict[str, dict[str, Any]] = {
        "body": {"content": large},
        "form": {"files": {"file": ("m.tflite", large)}},
        "pieces": {"content": (large[at : at + 10_000] for at in range(0, len(large), 10_000))},
    }
    problem(farm.call("POST", "/models", "user", **ways[how]), 413)
    assert count(farm, "/models") == 0 and farm.blob_count() == 0 and not farm.left_behind()


def test_a_json_body_too_large_is_413(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(max_body_mb=0.01)
    problem(searched(farm, supernet="x" * 20_000), 413)


def test_what_is_not_json_is_422(farm: Farm) -> None:
    headers = {"Content-Type": "application/json"}
    problem(farm.call("POST", "/search", content='{"device": ', headers=headers), 422)
    problem(farm.call("POST", "/search", content=b'{"device": "\xff"}', headers=headers), 422)
    problem(farm.call("POST", "/search", content='{"seed": ' + "9" * 5000 + "}", headers=headers), 422)
    problem(farm.call("POST", "/search", content="[" * 60_000, headers=headers), 422)
    detail = problem(farm.call("POST", "/search", data={"device": "host"}), 422)["detail"]
    assert "application/json" in detail


def test_unknown_addresses_and_methods_are_problems_too(farm: Farm) -> None:
    problem(farm.call("GET", "/no/such/thing"), 404)
    answer = farm.call("PUT", "/search")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"
    for thing in ("models", "jobs", "searches", "supernets", "profiles", "predictors", "measurements"):
        problem(farm.call("GET", f"/{thing}/unknown"), 404)
    problem(farm.call("GET", f"/blobs/{'0' * 64}"), 404)
    problem(farm.call("GET", "/blobs/..%2f..%2fadmin.token"), 404)
    problem(farm.call("GET", "/jobs?max_results=0"), 422)


def test_a_model_whose_manifest_is_too_short_for_a_card_has_none(farm: Farm) -> None:
    farm.anchor()
    (anchor,) = farm.ok("GET", "/models", params={"source": "anchor"})["items"]
    where = f"/models/{anchor['id']}/download"
    document = problem(farm.call("GET", where, params={"format": "card"}), 404)
    assert "format=manifest" in document["detail"]
    assert farm.call("GET", where, params={"format": "manifest"}).status_code == 200

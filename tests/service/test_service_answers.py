"""What a running service answers: searches, sub-networks, uploads, refusals."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import small
from server.cli import client
from tests.server.server_farm import problem, tiny_tflite
from tests.service.conftest import TERMS
from tests.service.service_farm import Service, processes, rows, wait_until, wait_until_nothing_left

SPACE = small(10)

# An answer is not verified if other work on the machine disturbed its sessions.
SEARCHES = 6


def unsearched() -> Arch:
    """An architecture that no search of these tests answers with, so that nothing has exported it before."""
    return SPACE.decode(SPACE.sample(np.random.default_rng(12345), 1)[0])


def as_object(arch: Arch) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(arch.to_json())
    return value


def download(service: Service, model: dict[str, Any]) -> bytes:
    """The file; its ETag has to be its hash."""
    answer = service.call("GET", model["download_url"])
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    return answer.content


def runs(file: bytes, side: int) -> None:
    runner = Interpreter(model_content=file, num_threads=1)
    runner.allocate_tensors()
    into, out = runner.get_input_details()[0], runner.get_output_details()[0]
    assert into["shape"].tolist() == [1, side, side, 3]
    runner.set_tensor(into["index"], np.zeros(into["shape"], np.float32))
    runner.invoke()
    logits = runner.get_tensor(out["index"])
    assert logits.shape == (1, 10) and np.isfinite(logits).all()


def subnet(service: Service, arch: object) -> str:
    return str(service.ok("POST", "/subnets", json={"arch": arch})["url"])


@pytest.mark.slow
def test_a_budget_goes_in_and_a_verified_file_that_runs_comes_out(running: Service) -> None:
    budget_ms = running.budget_ms(0.5)
    for _ in range(SEARCHES):
        url = running.ask(budget_ms, verify=True)
        view = running.wait(url)
        assert view["status"] == "succeeded" and view["error"] is None, view["error"]
        result = view["result"]
        model = result["models"][0]
        latency = model["latency"]["host"]
        if latency["verified"]:
            break
    assert latency["verified"] is True and latency["measured_ms"] <= budget_ms
    assert latency["lower_ms"] < latency["predicted_ms"] < latency["upper_ms"] <= budget_ms
    assert latency["calibrated"] is True and latency["measured_raw_ms"] > 0
    assert result["predictor"]["device"] == "host" and result["supernet"] == "digits"
    assert result["frontier"] and model["accuracy"]["source"] == "measured"
    assert result["terms"] == model["terms"] == TERMS

    file = download(running, model)
    side = model["arch"]["resolution"]
    runs(file, side)
    manifest = running.ok("GET", f"/models/{model['model_id']}/download", params={"format": "manifest"})
    assert manifest["sha256"] == hashlib.sha256(file).hexdigest()
    assert len(file) == model["size_bytes"] == manifest["size_bytes"]
    assert all(manifest[name] == model[name] for name in ("arch_id", "macs", "arch"))
    assert manifest["input"]["shape"] == [1, side, side, 3] and manifest["terms"] == TERMS
    assert running.ok("GET", f"/models/{model['model_id']}")["terms"] == TERMS
    assert running.ok("GET", "/supernets/digits")["terms"] == TERMS

    sessions = running.children(url)
    assert {job["status"] for job in sessions} == {"succeeded"} and 1 <= len(sessions) <= 6
    stored = running.ok("GET", "/measurements", params={"model_id": model["model_id"]})["items"]
    assert any(row["stable"] and row["p50_ms"] == pytest.approx(latency["measured_ms"]) for row in stored)
    wait_until_nothing_left(running.home)


@pytest.mark.slow
def test_the_upper_bound_keeps_every_budget(running: Service) -> None:
    fastest_ms = []
    for fraction in (0.1, 0.5, 0.9):
        budget_ms = running.budget_ms(fraction)
        result = running.search(budget_ms, count=2 if fraction == 0.1 else 1)
        seen = [*result["models"], *result["frontier"]]
        assert all(model["latency"]["host"]["upper_ms"] <= budget_ms for model in seen)
        assert not any(model["latency"]["host"]["verified"] for model in seen)
        frontier = [model["latency"]["host"]["predicted_ms"] for model in result["frontier"]]
        assert frontier == sorted(frontier) and len(set(frontier)) == len(frontier)
        assert len({model["arch_id"] for model in result["models"]}) == len(result["models"])
        fastest_ms.append(result["models"][0]["latency"]["host"]["predicted_ms"])
    assert fastest_ms == sorted(fastest_ms)


def test_an_infeasible_budget_is_refused_at_once_with_what_is_reachable(running: Service) -> None:
    before = len(running.ok("GET", "/searches")["items"])
    body = {"device": "host", "budget": {"latency_ms": 0.001}}
    refused = problem(running.call("POST", "/search", json=body), 422)
    assert refused["binding"] == "latency_ms" and refused["device"] == "host"
    assert refused["smallest_ms"] == pytest.approx(running.reachable_ms()[0])
    stricter = problem(running.call("POST", "/search", json={**body, "confidence": 0.99, "statistic": "p90"}), 422)
    assert stricter["smallest_ms"] > refused["smallest_ms"]
    assert len(running.ok("GET", "/searches")["items"]) == before

    result = running.search(refused["smallest_ms"] * (1 + 1e-9))
    assert result["models"][0]["latency"]["host"]["upper_ms"] == pytest.approx(refused["smallest_ms"])
    hardest = running.search(stricter["smallest_ms"] * (1 + 1e-9), confidence=0.99, statistic="p90")
    assert hardest["models"][0]["latency"]["host"]["statistic"] == "p90"


def test_a_subnet_by_json_by_id_and_by_ten_list_is_one_model(running: Service) -> None:
    arch = unsearched()
    first = running.wait(subnet(running, as_object(arch)))
    assert first["status"] == "succeeded", first["error"]
    model = running.ok("GET", first["result"]["url"])
    assert model["arch"] == as_object(arch) and model["arch_id"] == arch.id and model["source"] == "subnet"
    runs(download(running, first["result"]), arch.resolution)
    ten_list = json.loads(json.dumps(arch.to_moonlit()))
    for same in (arch.to_json(), arch.id, ten_list):
        again = running.wait(subnet(running, same))
        assert again["status"] == "succeeded", again["error"]
        assert again["result"]["model_id"] == model["id"]


def test_what_is_no_architecture_of_the_supernet_is_refused_with_a_reason(running: Service) -> None:
    def refused(arch: object, status: int = 422) -> str:
        return str(problem(running.call("POST", "/subnets", json={"arch": arch}), status)["detail"])

    assert "digits" in refused("T1")
    assert "GET /models" in refused("0123456789ab", 404)
    assert refused({"resolution": 32})
    assert refused([1, 2, 3])
    wide = Arch.from_json({**as_object(SPACE.smallest()), "resolution": 224})
    assert "224" in refused(json.loads(wide.to_json()))
    problem(running.call("POST", "/subnets", json={"arch": as_object(SPACE.smallest()), "supernet": "none-such"}), 404)


def test_an_uploaded_file_is_measured(running: Service) -> None:
    model = running.ok("POST", "/models", params={"name": "mine"}, content=tiny_tflite(0.25))
    assert model["source"] == "upload" and model["arch"] is None
    job = running.wait(running.measure(model["id"]))
    assert job["status"] == "succeeded" and job["attempts"] == 1, job["error"]
    measured = running.ok("GET", f"/measurements/{job['result']['measurement_id']}")
    assert measured["model_id"] == model["id"] and len(measured["session"]["rounds"]) == 2
    reference_ms = running.ok("GET", "/predictors")["items"][0]["anchor_reference_ms"]
    assert measured["p50_raw_ms"] > 0 and measured["p90_raw_ms"] is None, "ten samples say nothing of a p90"
    assert measured["p50_ms"] == pytest.approx(measured["p50_raw_ms"] * reference_ms / measured["anchor_p50_ms"])


def test_the_command_uploads_under_the_name_that_it_is_given(running: Service, tmp_path: Path) -> None:
    (tmp_path / "mine.tflite").write_bytes(tiny_tflite(0.125))
    command = ["models", "upload", str(tmp_path / "mine.tflite"), "--name", "other", "--url", running.url]
    done = CliRunner(env={"ELASTICVIT_HOME": str(running.home)}).invoke(client.app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "other"


@pytest.mark.slow
def test_limits_on_size_and_macs_hold_for_the_file(running: Service) -> None:
    wide_ms = running.budget_ms(1.0)
    macs = 6_000_000
    lean = running.search(wide_ms, max_macs=macs)["models"][0]
    assert lean["macs"] <= macs
    size_mb = 5.0
    small_file = running.search(wide_ms, max_size_mb=size_mb)["models"][0]
    assert len(download(running, small_file)) <= size_mb * 1e6
    assert min(lean["macs"], small_file["macs"]) > 1_500_000, "limits are kept, not shied away from"


def test_limits_that_nothing_keeps_are_named(running: Service) -> None:
    budget_ms = running.budget_ms(0.5)
    for limit in ({"max_macs": 1000}, {"max_size_mb": 0.001}):
        body = {"device": "host", "budget": {"latency_ms": budget_ms}, **limit}
        refusal = problem(running.call("POST", "/search", json=body), 422)
        assert next(iter(limit)) in refusal["detail"]


@pytest.mark.slow
def test_a_cancelled_search_stops_its_session_and_the_next_goes_on(running: Service) -> None:
    url = running.ask(running.budget_ms(0.15), verify=True, seed=3)
    session = running.until_measuring(url)
    cancelled = running.ok("POST", f"{url}/cancel")
    assert cancelled["status"] == "cancelled" and cancelled["result"] is None
    assert running.ok("GET", session["url"])["status"] == "cancelled"
    problem(running.call("POST", f"{url}/cancel"), 409)
    assert running.search(running.budget_ms(0.2))["models"]
    assert running.ok("GET", url)["status"] == "cancelled"
    wait_until("end of the benchmark", lambda: not any("android_bench" in c for c in processes(running.home).values()))
    wait_until_nothing_left(running.home)
    assert rows(running.home, "SELECT id FROM measurement WHERE job_id = ?", session["id"]) == []

"""The agents' protocol over HTTP, and the measurements that come of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from elasticvit.archs.published import PUBLISHED
from server.services import claims, job_ends, jobs, lease_expiry, measurements, models, submissions, supernets
from server.wire import JobKind, MeasurementSession, MeasureProtocol
from tests.server.server_farm import Farm, describe, problem, session_body, tiny_tflite, usable_rows


def leased(farm: Farm, agent_id: str, *devices: str) -> dict[str, Any]:
    lease: dict[str, Any] | None = farm.lease(agent_id, *devices)
    assert lease is not None
    return lease


def sweep(farm: Farm) -> int:
    with farm.database.write() as session:
        return lease_expiry.sweep(session, farm.clock())


@pytest.mark.medium
def test_a_job_is_leased_measured_and_stored(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    anchor = any_farm.anchor()
    protocol = {"rounds": 3, "runs": 20, "profile": True}
    job_id = any_farm.measure_job(protocol=protocol)
    lease = leased(any_farm, agent_id)
    assert (lease["job_id"], lease["attempt"], lease["device"], lease["kind"]) == (job_id, 1, "host", "measure")
    assert lease["protocol"]["rounds"] == 3 and lease["protocol"]["threads"] == 1
    assert lease["anchor"]["sha256"] == anchor.sha256 and lease["expires_at"].endswith("Z")
    for file in (lease["model"], lease["anchor"]):
        answer = any_farm.call("GET", file["url"], "agent")
        assert len(answer.content) == file["size_bytes"] and answer.headers["etag"] == f'"{file["sha256"]}"'
    body = {"attempt": 1, "progress": {"stage": "measuring", "done": 1, "total": 3}}
    any_farm.ok("POST", f"/leases/{lease['lease_id']}/renew", "agent", json=body)
    assert any_farm.ok("GET", f"/jobs/{job_id}")["status"] == "running"
    reported = any_farm.report(lease).json()
    job = any_farm.ok("GET", f"/jobs/{job_id}")
    assert job["status"] == reported["status"] == "succeeded"
    assert job["result"] == {"measurement_id": reported["measurement_id"]}
    measured = any_farm.ok("GET", f"/measurements/{reported['measurement_id']}")
    assert measured["p50_raw_ms"] == pytest.approx(2.0) and measured["anchor_p50_ms"] == pytest.approx(1.0)
    assert measured["p90_raw_ms"] > measured["p50_raw_ms"] and measured["stable"] and measured["samples"] == 55
    assert measured["p50_ms"] is None
    assert MeasurementSession.model_validate(measured["session"]) == MeasurementSession.model_validate(session_body())


def test_nothing_waits_is_204(farm: Farm) -> None:
    assert farm.lease(farm.agent()) is None


def test_of_two_agents_that_claim_one_job_one_gets_it(any_farm: Farm) -> None:
    first = any_farm.agent("first")
    second = any_farm.agent("second", ("host",))
    job_id = any_farm.measure_job()
    start = Barrier(2)

    def claim(agent_id: str) -> int:
        start.wait()
        body = {"agent_id": agent_id, "devices": ["host"]}
        return int(any_farm.call("POST", "/leases", "agent", json=body).status_code)

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(claim, (first, second)))
    assert sorted(both) == [200, 204]
    assert any_farm.ok("GET", f"/jobs/{job_id}")["attempts"] == 1


@pytest.mark.medium
def test_one_agent_asking_many_times_at_once_gets_it_once(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    any_farm.measure_job()
    any_farm.secret("agent")
    start = Barrier(6)

    def claim(_number: int) -> bool:
        start.wait()
        return any_farm.lease(agent_id) is not None

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(claim, range(6))) == 1


def test_an_agent_killed_in_the_middle_loses_its_lease_and_its_late_report(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    job_id = any_farm.measure_job()
    first = leased(any_farm, agent_id)
    any_farm.clock.pass_seconds(61)
    assert sweep(any_farm) == 1
    job = any_farm.ok("GET", f"/jobs/{job_id}")
    assert (job["status"], job["error"], job["attempts"]) == ("queued", None, 1)
    second = leased(any_farm, any_farm.agent())
    assert (second["job_id"], second["attempt"]) == (job_id, 2)
    problem(any_farm.report(first), 409)
    problem(any_farm.call("POST", f"/leases/{first['lease_id']}/renew", "agent", json={"attempt": 1}), 409)
    assert any_farm.report(second).json()["status"] == "succeeded"
    problem(any_farm.report(first), 409)
    assert len(any_farm.ok("GET", "/measurements")["items"]) == 1


@pytest.mark.medium
def test_the_same_report_twice_is_stored_once(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    any_farm.measure_job()
    lease = leased(any_farm, agent_id)
    first, again = any_farm.report(lease), any_farm.report(lease)
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert len(any_farm.ok("GET", "/measurements")["items"]) == 1
    problem(any_farm.report(lease, session_body(model_ms=3.0)), 409)


@pytest.mark.medium
def test_two_equal_reports_at_once_are_stored_once(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    any_farm.measure_job()
    lease = leased(any_farm, agent_id)
    start = Barrier(4)

    def report(_number: int) -> Any:  # noqa: ANN401
        start.wait()
        return any_farm.report(lease).json()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(report, range(4)))
    assert all(answer == answers[0] for answer in answers) and answers[0]["status"] == "succeeded"
    assert len(any_farm.ok("GET", "/measurements")["items"]) == 1


@pytest.mark.medium
def test_a_lease_outlives_a_restart_of_the_server(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm()
    agent_id = farm.agent()
    job_id = farm.measure_job()
    lease = leased(farm, agent_id)
    again = make_farm(farm.clock)
    again.secrets = farm.secrets
    assert again.ok("GET", f"/jobs/{job_id}")["status"] == "leased"
    assert again.report(lease).json()["status"] == "succeeded"


@pytest.mark.medium
def test_failures_are_tried_again_unless_the_user_has_to_act(farm: Farm) -> None:
    agent_id = farm.agent()
    job_id = farm.measure_job()
    gone = {"kind": "device", "detail": "the phone is gone: plug it in"}
    for attempt, status in ((1, "queued"), (2, "queued"), (3, "failed")):
        lease = leased(farm, agent_id)
        assert lease["attempt"] == attempt
        first = farm.report(lease, outcome="failed", failure=gone, log="usb\0 lost")
        assert first.json() == {"job_id": job_id, "status": status, "measurement_id": None}
        assert farm.report(lease, outcome="failed", failure=gone, log="usb\0 lost").status_code == 200
        farm.clock.pass_seconds(6)  # each further attempt is delayed
    assert farm.ok("GET", f"/jobs/{job_id}")["error"] == gone
    farm.measure_job()
    bad = {"kind": "user", "detail": "the model does not load"}
    assert farm.report(leased(farm, agent_id), outcome="failed", failure=bad).json()["status"] == "failed"


@pytest.mark.medium
def test_a_cancelled_job_refuses_its_report(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    job_id = any_farm.measure_job()
    lease = leased(any_farm, agent_id)
    assert any_farm.ok("POST", f"/jobs/{job_id}/cancel", "user")["status"] == "cancelled"
    problem(any_farm.report(lease), 409)
    problem(any_farm.call("POST", f"/jobs/{job_id}/cancel", "user"), 409)
    assert any_farm.ok("GET", "/measurements")["items"] == []


def test_a_report_has_to_fit_its_lease(farm: Farm) -> None:
    agent_id = farm.agent(devices=("host", "pixel4"))
    farm.measure_job()
    lease = leased(farm, agent_id)
    problem(farm.report(lease, session_body(device="pixel4")), 422)
    problem(farm.report(lease, outcome="measured"), 422)
    problem(farm.report(lease, outcome="failed", session=session_body()), 422)
    problem(farm.report({**lease, "attempt": 2}), 409)
    problem(farm.report({**lease, "lease_id": "lease-unknown"}), 404)
    farm.agent("stranger", ("other",), "agent-2")
    body = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "measured", "session": session_body()}
    problem(farm.call("POST", f"/leases/{lease['lease_id']}/report", "agent-2", json=body), 403)
    text = json.dumps(body | {"session": session_body() | {"conditions": {"t": float("nan")}}})
    headers = {"Content-Type": "application/json"}
    problem(farm.call("POST", f"/leases/{lease['lease_id']}/report", "agent", content=text, headers=headers), 422)
    assert farm.report(lease).status_code == 200


@pytest.mark.medium
def test_devices_are_idle_busy_and_offline(farm: Farm) -> None:
    agent_id = farm.agent()
    seen = farm.ok("GET", "/devices/host")
    assert (seen["state"], seen["agent"], seen["predictor"]) == ("idle", "beside-host", None)
    assert "serial" not in seen
    farm.measure_job()
    lease = leased(farm, agent_id)
    assert farm.ok("GET", "/devices/host")["state"] == "busy"
    farm.report(lease)
    assert farm.ok("GET", "/devices/host")["state"] == "idle"
    farm.clock.pass_seconds(31)
    assert farm.ok("GET", "/devices")["items"][0]["state"] == "offline"
    beat = {"agent_id": agent_id, "devices": [{"name": "host", "state": "busy", "conditions": {"celsius": 40.5}}]}
    farm.ok("POST", "/agents/heartbeat", "agent", json=beat)
    assert farm.ok("GET", "/devices/host")["state"] == "busy"


@pytest.mark.medium
def test_a_device_shows_the_newest_predictor_of_the_default_supernet(farm: Farm) -> None:
    """The one that answers a search that names no supernet, whichever was fitted last."""
    farm.supernet("first")
    farm.supernet("second")
    farm.agent()
    assert farm.ok("GET", "/devices/host")["predictor"] is None
    other = farm.predictor("second")
    assert farm.ok("GET", "/devices/host")["predictor"] is None
    older = farm.predictor("first")
    newest = farm.predictor("first")
    latest_of_the_other = farm.predictor("second")
    for shown in (farm.ok("GET", "/devices/host"), farm.ok("GET", "/devices")["items"][0]):
        assert shown["predictor"] == {"id": newest, "device": "host", "version": 3}
    with farm.database.write() as session:
        supernets.make_default(session, "second")
    assert farm.ok("GET", "/devices/host")["predictor"]["id"] == latest_of_the_other
    assert len({other, older, newest, latest_of_the_other}) == 4


@pytest.mark.medium
def test_a_server_that_starts_cancels_what_finished_parents_left(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm()
    farm.agent()
    farm.supernet()
    parent = farm.ok("POST", "/jobs", json={"kind": "calibrate", "device": "host"})["id"]
    model_id = farm.upload()
    with farm.database.write() as session:
        child = submissions.measure(
            session, model_id, "host", MeasureProtocol(), farm.clock(), parent_id=parent, key="left"
        ).id
        row = jobs.get(session, parent)
        row.status = "failed"  # as an older version left them
        session.add(row)
    again = make_farm(farm.clock)
    for _ in range(200):
        job = again.ok("GET", f"/jobs/{child}")
        if job["status"] != "queued":
            break
        time.sleep(0.05)
    assert job["status"] == "cancelled" and parent in job["error"]["detail"]


def test_an_agent_registers_again_after_a_restart(farm: Farm) -> None:
    assert farm.agent() == farm.agent()
    problem(farm.call("POST", "/agents/heartbeat", "agent", json={"agent_id": "agent-x", "devices": []}), 404)
    body = {"name": "beside-host", "version": "1", "devices": []}
    problem(farm.call("POST", "/agents/register", "agent-2", json=body), 409)
    farm.clock.pass_seconds(31)
    assert farm.ok("POST", "/agents/register", "agent-2", json=body)
    twins = body | {"devices": [describe(), describe()]}
    problem(farm.call("POST", "/agents/register", "agent-2", json=twins), 422)


def test_another_agent_cannot_speak_for_this_one(farm: Farm) -> None:
    agent_id = farm.agent()
    problem(farm.call("POST", "/leases", "agent-2", json={"agent_id": agent_id, "devices": ["host"]}), 403)
    problem(farm.call("POST", "/agents/heartbeat", "agent-2", json={"agent_id": agent_id, "devices": []}), 403)


def measure(farm: Farm, agent_id: str, session: dict[str, Any]) -> dict[str, Any]:
    farm.measure_job(session["device"]["name"])
    reported = farm.report(leased(farm, agent_id, session["device"]["name"]), session).json()
    measurement: dict[str, Any] = farm.ok("GET", f"/measurements/{reported['measurement_id']}")
    return measurement


@pytest.mark.medium
def test_measurements_are_normalised_by_the_anchor(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    any_farm.anchor()
    calm = measure(any_farm, agent_id, session_body(model_ms=2.0, anchor_ms=1.0))
    with any_farm.database.write() as session:
        assert measurements.fix_anchor_reference(session, calm["profile_id"]) == pytest.approx(1.0)
    assert any_farm.ok("GET", f"/measurements/{calm['id']}")["p50_ms"] == pytest.approx(2.0)
    slow = measure(any_farm, agent_id, session_body(model_ms=4.0, anchor_ms=2.0))
    assert slow["p50_raw_ms"] == pytest.approx(4.0) and slow["p50_ms"] == pytest.approx(2.0)
    with any_farm.database.write() as session:
        assert measurements.fix_anchor_reference(session, calm["profile_id"]) == pytest.approx(1.0)
    assert any_farm.ok("GET", f"/profiles/{calm['profile_id']}")["measurements"] == 2


@pytest.mark.medium
def test_unstable_and_emulated_sessions_are_kept_and_not_used(farm: Farm) -> None:
    agent_id = farm.agent(devices=("host", "emu"), kinds={"emu": "emulated"})
    shaky, drifting = session_body(), session_body()
    for measured in shaky["rounds"][:2]:  # one alone would be forgiven
        measured["model"]["samples_ns"] = [4_000_000] * 5
    for number, measured in enumerate(drifting["rounds"]):
        for run in measured.values():
            run["samples_ns"] = [int(ns * (1 + 0.1 * number)) for ns in run["samples_ns"]]
    for body, word in ((shaky, "varies"), (drifting, "drift")):
        kept = measure(farm, agent_id, body)
        assert not kept["stable"] and word in kept["unstable_reason"]
    emulated = measure(farm, agent_id, session_body(device="emu", kind="emulated"))
    assert emulated["emulated"] and emulated["stable"]
    for profile in farm.ok("GET", "/profiles")["items"]:
        assert usable_rows(farm, profile["id"]) == []


@pytest.mark.medium
def test_only_float32_models_with_an_arch_are_rows_for_a_predictor(farm: Farm) -> None:
    agent_id = farm.agent()
    measure(farm, agent_id, session_body())
    for precision, add in (("int8", 2.0), ("float32", 3.0)):
        with farm.database.write() as session:
            file = models.store_bytes(farm.blobs, tiny_tflite(add))
            new = models.NewModel(file, "search", {}, precision=precision, arch=PUBLISHED["S1"])
            made = models.add(session, new, farm.clock())
            submissions.measure(session, made.id, "host", MeasureProtocol(), farm.clock())
        farm.report(leased(farm, agent_id))
    profile_id = farm.ok("GET", "/devices/host")["profile_id"]
    (row,) = usable_rows(farm, profile_id)
    assert (row.arch_id, row.model_id, row.profiled) == (PUBLISHED["S1"].id, made.id, True)
    with farm.database.read() as session:
        assert [op.tag for op in measurements.ops(session, row.measurement_id)] == ["ADD"]


@pytest.mark.medium
def test_a_host_calibrates_nothing_while_a_search_runs(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    any_farm.supernet()
    calibration = any_farm.ok("POST", "/jobs", json={"kind": "calibrate", "device": "host"})["id"]
    model_id = any_farm.upload()
    protocol = MeasureProtocol()
    with any_farm.database.write() as session:
        probe = submissions.measure(
            session, model_id, "host", protocol, any_farm.clock(), parent_id=calibration, key="0"
        ).id
    body = {"device": "host", "budget": {"latency_ms": 5.0}, "allow_uncalibrated": True}
    any_farm.ok("POST", "/search", json=body)
    with any_farm.database.write() as session:
        search = claims.claim_compute(session, "worker", (JobKind.SEARCH,), any_farm.clock())
    assert search is not None
    assert any_farm.lease(agent_id) is None
    with any_farm.database.write() as session:
        verify = submissions.measure(
            session, model_id, "host", protocol, any_farm.clock(), parent_id=search.job.id, key="0"
        ).id
    assert leased(any_farm, agent_id)["job_id"] == verify
    assert any_farm.lease(agent_id) is None
    with any_farm.database.write() as session:
        job_ends.finish(session, search.lease_id, search.attempt, {}, any_farm.clock())
    assert leased(any_farm, agent_id)["job_id"] == probe

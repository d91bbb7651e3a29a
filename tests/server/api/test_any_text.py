"""What devices print may hold any character: nothing that an agent sends is refused or lost for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from device_agent.bench.result import BenchResult, read_result
from device_agent.bench.session import Measured
from device_agent.bench.session import session as session_of
from device_agent.errors import BadModel
from device_agent.job import failed
from server.services import claims
from server.wire import DeviceDescription, Lease, Report
from server.wire.measurements import MAX_LOG_CHARS
from tests.server.server_farm import Farm, describe, problem, session_body

LITERAL = "\\u0000"  # six characters: a backslash, u, 0, 0, 0, 0
TEXTS = {
    LITERAL: LITERAL,
    "\\\\u0000": "\\\\u0000",
    "\\ud800": "\\ud800",
    "a\0b": "a\ufffdb",
    "a\\\0b": "a\\\ufffdb",
    "half \ud800": "half \ufffd",
    "\udc80 of a file name": "\ufffd of a file name",
    "\ud83d\ude00 in halves": "\U0001f600 in halves",
    "\x01\x7f\u2028 \U0001f600": "\x01\x7f\u2028 \U0001f600",
}
EVERY_TEXT = pytest.mark.parametrize(("text", "kept"), TEXTS.items(), ids=[ascii(text) for text in TEXTS])


def send(farm: Farm, path: str, body: dict[str, Any], role: str = "agent") -> Any:  # noqa: ANN401
    """As json.dumps writes it, lone surrogates as escapes."""
    return farm.call("POST", path, role, content=json.dumps(body), headers={"Content-Type": "application/json"})


def leased(farm: Farm, agent_id: str) -> dict[str, Any]:
    lease = farm.lease(agent_id)
    assert lease is not None
    return lease


@pytest.mark.medium
@EVERY_TEXT
def test_a_report_with_any_text_is_stored(any_farm: Farm, text: str, kept: str) -> None:
    farm = any_farm
    device = describe() | {"model": text, "properties": {text: text}}
    registered = send(farm, "/agents/register", {"name": "one", "version": "1", "devices": [device]})
    farm.measure_job()
    lease = leased(farm, registered.json()["agent_id"])
    body = session_body()
    body["conditions"] = {text: [text, {"deeper": text}]}
    body["rounds"][0]["model"]["conditions"] = {"governor": text}
    body["profile"][0]["tag"] = text
    body["device"] = device
    report = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "measured", "session": body, "log": text}
    first = send(farm, f"/leases/{lease['lease_id']}/report", report)
    assert first.status_code == 200, first.text
    again = send(farm, f"/leases/{lease['lease_id']}/report", report)
    assert again.json() == first.json()
    measurement = farm.ok("GET", f"/measurements/{first.json()['measurement_id']}")
    session = measurement["session"]
    assert session["conditions"] == {kept: [kept, {"deeper": kept}]}
    assert session["rounds"][0]["model"]["conditions"] == {"governor": kept}
    assert session["profile"][0]["tag"] == kept
    assert session["device"]["model"] == kept and session["device"]["properties"] == {kept: kept}
    assert farm.ok("GET", f"/profiles/{measurement['profile_id']}")["key"]["model"] == kept
    with farm.database.read() as reading:
        assert claims.get_attempt(reading, lease["lease_id"]).log == kept


@pytest.mark.medium
@EVERY_TEXT
def test_failures_progress_heartbeats_and_registrations_with_any_text_are_stored(
    any_farm: Farm, text: str, kept: str
) -> None:
    farm = any_farm
    device = describe() | {"soc": text, "properties": {text: text}}
    registered = send(farm, "/agents/register", {"name": "one", "version": text, "devices": [device]})
    assert registered.status_code == 200, registered.text
    agent_id = registered.json()["agent_id"]
    seen = farm.ok("GET", "/devices/host")
    assert seen["soc"] == kept and seen["properties"] == {kept: kept}
    beat = {"name": "host", "state": "idle", "conditions": {text: text}}
    assert send(farm, "/agents/heartbeat", {"agent_id": agent_id, "devices": [beat]}).status_code == 200
    job_id = farm.measure_job()
    lease = leased(farm, agent_id)
    progress = {"stage": text, "done": 1, "detail": text}
    renewed = send(farm, f"/leases/{lease['lease_id']}/renew", {"attempt": 1, "progress": progress})
    assert renewed.status_code == 200, renewed.text
    shown = farm.ok("GET", f"/jobs/{job_id}")["progress"]
    assert (shown["stage"], shown["detail"]) == (kept, kept)
    failure = {"kind": "user", "detail": text}
    report = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "failed", "failure": failure, "log": text}
    reported = send(farm, f"/leases/{lease['lease_id']}/report", report)
    assert reported.status_code == 200, reported.text
    assert farm.ok("GET", f"/jobs/{job_id}")["error"] == {"kind": "user", "detail": kept}


HUGE = [2**31, 2**63, 10**30, 10**400]


@pytest.mark.parametrize("number", HUGE, ids=["2^31", "2^63", "10^30", "10^400"])
def test_a_number_that_no_database_holds_is_refused(any_farm: Farm, number: int) -> None:
    agent_id, job_id = any_farm.agent(), any_farm.measure_job()
    lease = leased(any_farm, agent_id)
    path = f"/leases/{lease['lease_id']}"
    problem(send(any_farm, f"{path}/renew", {"attempt": number}), 422)
    for name in ("node", "count"):
        session = session_body()
        session["profile"][0][name] = number
        report = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "measured", "session": session}
        problem(send(any_farm, f"{path}/report", report), 422)
    if number >= 2**63:
        session = session_body()
        session["rounds"][0]["model"]["samples_ns"][0] = number
        report = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "measured", "session": session}
        problem(send(any_farm, f"{path}/report", report), 422)
    assert any_farm.ok("GET", f"/jobs/{job_id}")["status"] == "leased"


def benchmarked(text: str) -> BenchResult:
    """What the agent reads of a benchmark's result with a text that comes from the model or the device."""
    op = {"node": 0, "tag": text, "count": 5, "total_us": 60.0, "median_us": 12.0}
    values = {
        "schema": 1,
        "samples_ns": [1_000_000 + i for i in range(10)],
        "threads": {"asked": 1, "got": 1},
        "affinity": {"asked": None, "got": "1"},
        "temperature_mc_before": [{"zone": text, "value": 40_000}],
        "profile": {"runs": 5, "ops": [op]},
    }
    return read_result(json.dumps(values).encode())


def stored_profile(farm: Farm, result: BenchResult) -> list[dict[str, Any]]:
    """The operators of a result, once the agent has reported it and the server stored it."""
    agent_id = farm.agent()
    farm.measure_job()
    lease = leased(farm, agent_id)
    about = DeviceDescription.model_validate(describe())
    session = session_of(Measured((result,), (), result.op_times()), about, {})
    report = Report(lease_id=lease["lease_id"], attempt=1, outcome="measured", session=session)
    path = f"/leases/{lease['lease_id']}/report"
    measurement_id = send(farm, path, json.loads(report.model_dump_json())).json()["measurement_id"]
    profile: list[dict[str, Any]] = farm.ok("GET", f"/measurements/{measurement_id}")["session"]["profile"]
    return profile


@pytest.mark.medium
@EVERY_TEXT
def test_a_benchmark_result_with_any_text_is_measured(farm: Farm, text: str, kept: str) -> None:
    (op,) = stored_profile(farm, benchmarked(text))
    assert op["tag"] == kept


@pytest.mark.medium
def test_a_long_name_of_an_operator_is_cut(farm: Farm) -> None:
    (op,) = stored_profile(farm, benchmarked("x" * 600))
    assert op["tag"] == "x" * 500


def test_of_a_long_log_the_end_is_kept(farm: Farm) -> None:
    agent_id, job_id = farm.agent(), farm.measure_job()
    lease = Lease.model_validate(leased(farm, agent_id))
    log = "".join(f"line {number}\n" for number in range(10_000))
    report = failed(lease, BadModel("the model cannot be measured", log=log))
    answer = send(farm, f"/leases/{lease.lease_id}/report", json.loads(report.model_dump_json()))
    assert answer.status_code == 200 and farm.ok("GET", f"/jobs/{job_id}")["status"] == "failed"
    with farm.database.read() as session:
        stored = claims.get_attempt(session, lease.lease_id).log
    first, _, rest = stored.partition("\n")
    assert len(stored) == MAX_LOG_CHARS and log.endswith(rest) and str(len(log)) in first


@pytest.mark.medium
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_refusal_that_quotes_any_text_is_a_problem(any_farm: Farm, text: str) -> None:
    assert problem(send(any_farm, "/search", {text: 1}, "user"), 422)["errors"]
    problem(send(any_farm, "/jobs", {"kind": "measure", "device": text, "model_id": text}, "user"), 422)
    any_farm.supernet()
    for arch in (text, {text: text}, [text]):
        assert send(any_farm, "/subnets", {"arch": arch}, "user").status_code in (202, 404, 422)


def test_a_nul_character_in_an_address_is_the_callers_fault(any_farm: Farm) -> None:
    any_farm.agent()
    for path in ("/jobs/a%00b", "/devices/a%00b", "/measurements/%00", "/jobs?page_token=%00", "/jobs?device=%00"):
        assert any_farm.call("GET", path).status_code in (200, 404, 422), path


def test_a_body_nested_too_deeply_is_refused(any_farm: Farm) -> None:
    agent_id = any_farm.agent()
    deep = "[" * 900 + "]" * 900
    body = (
        f'{{"agent_id": "{agent_id}", "devices": [{{"name": "host", "state": "idle", "conditions": {{"a": {deep}}}}}]}}'
    )
    headers = {"Content-Type": "application/json"}
    assert any_farm.call("POST", "/agents/heartbeat", "agent", content=body, headers=headers).status_code in (200, 422)

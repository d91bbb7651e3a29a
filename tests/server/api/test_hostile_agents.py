"""What an agent may not do: report absurd numbers, other devices' profiles, or latencies that no device has."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from elasticvit.archs.published import PUBLISHED
from elasticvit.costs.flops import macs
from server.services import measurements, models, submissions
from server.store.tables import Model
from server.wire import MeasureProtocol
from tests.server.server_farm import Farm, describe, problem, session_body, tiny_tflite, usable_rows

Change = Callable[[dict[str, Any]], None]
BEYOND = {"2^63": 2**63, "10^30": 10**30, "10^308": 10**308, "10^400": 10**400, "10^4000": 10**4000}


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def send(farm: Farm, path: str, body: str | dict[str, Any]) -> Any:  # noqa: ANN401
    content = body if isinstance(body, str) else json.dumps(body)
    return farm.call("POST", path, "agent", content=content, headers={"Content-Type": "application/json"})


def leased(farm: Farm, agent_id: str, device: str = "host") -> dict[str, Any]:
    farm.measure_job(device)
    lease = farm.lease(agent_id, device)
    assert lease is not None
    return lease


def reported(farm: Farm, lease: dict[str, Any], session: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401
    body = {"lease_id": lease["lease_id"], "attempt": lease["attempt"], "outcome": "measured", "session": session}
    return send(farm, f"/leases/{lease['lease_id']}/report", body | more)


def in_run(**values: Any) -> Change:  # noqa: ANN401
    return lambda session: session["rounds"][0]["model"].update(values)


def in_session(**values: Any) -> Change:  # noqa: ANN401
    return lambda session: session.update(values)


def in_op(**values: Any) -> Change:  # noqa: ANN401
    return lambda session: session["profile"][0].update(values)


def in_device(**values: Any) -> Change:  # noqa: ANN401
    return lambda session: session["device"].update(values)


ABSURD: dict[str, Change] = {
    **{f"a sample of {name}": in_run(samples_ns=[number]) for name, number in BEYOND.items()},
    **{f"a peak of {name}": in_session(peak_rss_kb=number) for name, number in BEYOND.items()},
    **{f"a node of {name}": in_op(node=number) for name, number in BEYOND.items()},
    **{f"a count of {name}": in_op(count=number) for name, number in BEYOND.items()},
    **{f"a total of {name}": in_op(total_us=number) for name, number in BEYOND.items()},
    **{f"an init of {name}": in_run(init_ms=number) for name, number in BEYOND.items()},
    **{f"a condition of {name}": in_session(conditions={"a": number}) for name, number in BEYOND.items()},
    **{f"a condition of a run of {name}": in_run(conditions={"a": [number]}) for name, number in BEYOND.items()},
    "a total of 1e308": in_op(total_us=1e308),
    "an infinite init": in_session(init_ms=float("inf")),
    "conditions 300 levels deep": in_session(conditions=deep(300)),
    "501 properties": in_device(properties={str(number): "x" for number in range(501)}),
    "properties of a megabyte": in_device(properties={str(number): "x" * 10_000 for number in range(101)}),
    "a nested property": in_device(properties={"a": deep(300)}),
}


@pytest.mark.medium
def test_absurd_values_in_a_report_are_refused_and_leave_nothing(any_farm: Farm) -> None:
    farm = any_farm
    lease = leased(farm, farm.agent())
    for name, change in ABSURD.items():
        session = session_body()
        change(session)
        # 10^308 is a finite float: it is in some of these fields a bad value of its own.
        assert problem(reported(farm, lease, session), 422)["kind"] == "user", name
    for name, number in BEYOND.items():
        problem(reported(farm, lease, session_body(), attempt=number), 422)
        renewal = {"attempt": 1, "progress": {"stage": "x", "done": 1, "total": number}}
        problem(send(farm, f"/leases/{lease['lease_id']}/renew", renewal), 422)
        assert name
    assert farm.ok("GET", "/measurements")["items"] == []
    assert farm.ok("GET", f"/jobs/{lease['job_id']}")["status"] == "leased"
    assert reported(farm, lease, session_body()).status_code == 200


@pytest.mark.medium
@pytest.mark.parametrize(
    "conditions", ['{"a": 1' + "0" * 400 + "}", '{"a": NaN}', '{"a": ' + "[" * 300 + "]" * 300 + "}"]
)
def test_absurd_conditions_in_a_heartbeat_are_refused(any_farm: Farm, conditions: str) -> None:
    agent_id = any_farm.agent()
    beat = f'{{"name": "host", "state": "idle", "conditions": {conditions}}}'
    problem(send(any_farm, "/agents/heartbeat", f'{{"agent_id": "{agent_id}", "devices": [{beat}]}}'), 422)
    assert any_farm.ok("GET", "/devices/host")["state"] == "idle"


@pytest.mark.medium
@pytest.mark.parametrize("field", ["kind", "model", "soc", "os_build", "abi", "runtime_version", "bench_build"])
def test_a_report_cannot_name_another_device_profile(any_farm: Farm, field: str) -> None:
    """The device profile is that of the registration: a report that differs is refused and names the field."""
    farm = any_farm
    farm.agent("owner", ("host",), "agent-2")
    lease = leased(farm, farm.agent("poisoner", ("phone",), kinds={"phone": "phone"}), "phone")
    session = session_body(device="phone", kind="phone")
    session["device"][field] = "host" if field == "kind" else "another one"
    assert field in problem(reported(farm, lease, session), 422)["detail"]
    measured = reported(farm, lease, session_body(device="phone", kind="phone")).json()["measurement_id"]
    shown = farm.ok("GET", f"/measurements/{measured}")
    assert shown["profile_id"] == farm.ok("GET", "/devices/phone")["profile_id"]
    assert shown["profile_id"] != farm.ok("GET", "/devices/host")["profile_id"]


@pytest.mark.medium
def test_the_profile_is_that_of_the_registration_at_the_time_of_the_lease(any_farm: Farm) -> None:
    """A report from the spool of an agent that was upgraded meanwhile is true of the device as it was."""
    farm = any_farm
    agent_id = farm.agent()
    lease = leased(farm, agent_id)
    before = farm.ok("GET", "/devices/host")["profile_id"]
    upgraded = {
        "name": "beside-host",
        "version": "2",
        "devices": [describe() | {"runtime_version": "2.4.0"}],
        "leases": [lease["lease_id"]],
    }
    farm.ok("POST", "/agents/register", "agent", json=upgraded)
    assert farm.ok("GET", "/devices/host")["profile_id"] != before
    measured = reported(farm, lease, session_body()).json()["measurement_id"]
    assert farm.ok("GET", f"/measurements/{measured}")["profile_id"] == before


@pytest.mark.medium
def test_a_report_cannot_make_an_emulated_phone_a_real_one(farm: Farm) -> None:
    lease = leased(farm, farm.agent(devices=("emu",), kinds={"emu": "emulated"}), "emu")
    session = session_body(device="emu", kind="emulated") | {"emulated": False}
    measured = reported(farm, lease, session).json()["measurement_id"]
    assert farm.ok("GET", f"/measurements/{measured}")["emulated"] is True


class Bench:
    """A model and an anchor of known MACs, measured on a device whose anchor reference is 1 ms."""

    def __init__(self, farm: Farm, precision: str = "float32") -> None:
        self.farm, self.agent_id = farm, farm.agent()
        arch = PUBLISHED["S1"]
        self.macs = macs(arch)
        self.anchor = self._stored(models.NewModel(self._file(7.0), "anchor", {}, "anchor", "float32", arch))
        self.model = self._stored(models.NewModel(self._file(3.0), "search", {}, None, precision, arch))
        measured = self.measure(session_body(model_ms=1.0)).json()["measurement_id"]
        self.profile_id = farm.ok("GET", f"/measurements/{measured}")["profile_id"]
        with farm.database.write() as session:
            measurements.fix_anchor_reference(session, self.profile_id)

    def measure(self, session: dict[str, Any]) -> Any:  # noqa: ANN401
        with self.farm.database.write() as writing:
            submissions.measure(writing, self.model.id, "host", MeasureProtocol(), self.farm.clock())
        lease = self.farm.lease(self.agent_id)
        assert lease is not None
        self.job_id = str(lease["job_id"])
        return reported(self.farm, lease, session)

    def shown(self, session: dict[str, Any]) -> dict[str, Any]:
        measurement: dict[str, Any] = self.farm.ok(
            "GET", f"/measurements/{self.measure(session).json()['measurement_id']}"
        )
        return measurement

    def _file(self, add: float) -> models.StoredFile:
        return models.store_bytes(self.farm.blobs, tiny_tflite(add))

    def _stored(self, new: models.NewModel) -> Model:
        with self.farm.database.write() as session:
            return models.add(session, new, self.farm.clock())


IMPOSSIBLE = {
    "of the attack: 10 ns": session_body(model_ms=1e-5),
    "far too fast for its MACs": session_body(model_ms=0.005),
    "far too fast beside the anchor": session_body(model_ms=2e-1, anchor_ms=50.0),
    "far too slow beside the anchor": session_body(model_ms=500.0),
    "longer than a latency may be": session_body(model_ms=70_000.0, anchor_ms=70_000.0),
    "an anchor far too fast for its MACs": session_body(model_ms=0.01, anchor_ms=0.001),
    "an anchor far faster than before": session_body(model_ms=0.09, anchor_ms=0.09),
}


@pytest.mark.medium
def test_latencies_that_a_device_cannot_have_are_refused(any_farm: Farm) -> None:
    bench = Bench(any_farm)
    for name, session in IMPOSSIBLE.items():
        answer = problem(bench.measure(session), 422)
        assert "cannot have" in answer["detail"], name
        assert any_farm.ok("GET", f"/jobs/{bench.job_id}")["status"] == "leased", name
        any_farm.ok("POST", f"/jobs/{bench.job_id}/cancel")
    assert len(any_farm.ok("GET", "/measurements")["items"]) == 1


EQUAL = [{"model": {"samples_ns": [10**6] * 10}, "anchor": {"samples_ns": [10**6]}}] * 5
DOUBTFUL = {
    "anchor took": session_body(model_ms=4.0, anchor_ms=4.0),
    "beside an anchor": session_body(model_ms=20.0),
    "equal": session_body()
    | {"rounds": [{"model": {"samples_ns": [10**6] * 10}, "anchor": {"samples_ns": [10**6]}}] * 5},
}


@pytest.mark.medium
def test_latencies_that_are_hard_to_believe_are_stored_and_not_used(farm: Farm) -> None:
    bench = Bench(farm)
    for word, session in DOUBTFUL.items():
        shown = bench.shown(session)
        assert shown["stable"] is False and word in shown["unstable_reason"]
        assert shown["p90_stable"] is False and word in shown["p90_unstable_reason"]
    assert len(usable_rows(farm, bench.profile_id)) == 1


@pytest.mark.medium
def test_what_devices_do_is_believed(farm: Farm) -> None:
    """Throttled to half its speed; a network that is slow for its MACs, and one that is fast."""
    bench = Bench(farm)
    for body in (session_body(model_ms=2.0, anchor_ms=2.0), session_body(model_ms=5.0), session_body(model_ms=0.3)):
        assert bench.shown(body)["stable"] is True


@pytest.mark.medium
def test_an_upload_of_which_no_macs_are_known_is_only_held_to_what_is_possible(farm: Farm) -> None:
    agent_id = farm.agent()
    assert reported(farm, leased(farm, agent_id), session_body(model_ms=0.001)).status_code == 200
    problem(reported(farm, leased(farm, agent_id), session_body(model_ms=1e-5)), 422)


@pytest.mark.medium
def test_a_calibration_trusts_only_sessions_of_its_own_token(any_farm: Farm) -> None:
    """Another agent may register a device of its own under the same device profile."""
    farm = any_farm
    arch = PUBLISHED["S1"]
    with farm.database.write() as session:
        file = models.store_bytes(farm.blobs, tiny_tflite(3.0))
        new = models.NewModel(file, "search", {}, precision="float32", arch=arch)
        model_id = models.add(session, new, farm.clock()).id
    agents = {
        "host": farm.agent(),
        "twin": farm.agent(devices=("twin",)),
        "liar": farm.agent("liar", ("liar",), "agent-2"),
    }
    reports = {}
    for device, agent_id in agents.items():
        role = "agent-2" if device == "liar" else "agent"
        with farm.database.write() as session:
            submissions.measure(session, model_id, device, MeasureProtocol(), farm.clock())
        lease = farm.call("POST", "/leases", role, json={"agent_id": agent_id, "devices": [device]}).json()
        body = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "measured"}
        body["session"] = session_body(device=device, anchor_ms=0.5 if device == "liar" else 1.0)
        answer = farm.call("POST", f"/leases/{lease['lease_id']}/report", role, json=body)
        reports[answer.json()["measurement_id"]] = device
    profile_id = farm.ok("GET", "/devices/liar")["profile_id"]
    assert profile_id == farm.ok("GET", "/devices/host")["profile_id"]
    with farm.database.write() as session:
        rows = measurements.usable(session, profile_id, device="host")
        assert {reports[row.measurement_id] for row in rows} == {"host", "twin"}
        assert len(measurements.usable(session, profile_id)) == 3
        assert measurements.fix_anchor_reference(session, profile_id, "host") == pytest.approx(1.0)

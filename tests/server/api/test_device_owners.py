"""A device belongs to the token that registered it, until an admin binds it to another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.services import tokens
from server.store.tables import Device, Token
from server.supervise.bootstrap import ensure_agent_token
from tests.server.server_farm import Farm, describe, problem, tiny_tflite

OTHER = "agent-other"


def register(farm: Farm, role: str, agent: str, *devices: str, **more: Any) -> Any:  # noqa: ANN401
    body = {"name": agent, "version": "1", "devices": [describe(device) for device in devices], **more}
    return farm.call("POST", "/agents/register", role, json=body)


def registered(farm: Farm, role: str, agent: str, *devices: str) -> str:
    answer = register(farm, role, agent, *devices)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["agent_id"])


def token_id(farm: Farm, role: str) -> str:
    farm.secret(role)
    return next(str(token["id"]) for token in farm.ok("GET", "/tokens")["items"] if token["name"] == f"a-{role}")


def lease(farm: Farm, role: str, agent_id: str, *devices: str) -> Any:  # noqa: ANN401
    return farm.call("POST", "/leases", role, json={"agent_id": agent_id, "devices": devices})


def rebind(farm: Farm, device: str, token: str, role: str = "admin") -> Any:  # noqa: ANN401
    return farm.call("POST", f"/devices/{device}/rebind", role, json={"token_id": token})


@pytest.mark.parametrize("device", ["host", "pixel4"])
def test_another_token_cannot_take_a_device(any_farm: Farm, device: str) -> None:
    farm = any_farm
    owner = registered(farm, "agent", "owner", device)
    for role in (OTHER, "admin"):
        refused = problem(register(farm, role, "thief", device), 403)
        assert f"elasticvit devices rebind {device}" in refused["detail"]
    farm.clock.pass_seconds(3600)  # offline: still not anybody's
    problem(register(farm, OTHER, "thief", device), 403)
    shown = farm.ok("GET", f"/devices/{device}")
    assert shown["agent"] == "owner" and shown["token_id"] == token_id(farm, "agent")
    farm.measure_job(device)
    assert lease(farm, "agent", owner, device).status_code == 200


def test_another_token_that_takes_the_name_of_an_agent_gets_neither_its_devices_nor_its_leases(any_farm: Farm) -> None:
    farm = any_farm
    agent_id = registered(farm, "agent", "beside-host", "host")
    farm.measure_job()
    held = farm.lease(agent_id)
    assert held is not None
    farm.clock.pass_seconds(31)  # offline, while the lease runs
    taken = register(farm, OTHER, "beside-host", leases=[held["lease_id"]])
    assert taken.json()["agent_id"] == agent_id
    beat = {"agent_id": agent_id, "devices": [{"name": "host", "state": "idle"}]}
    problem(farm.call("POST", "/agents/heartbeat", OTHER, json=beat), 404)
    assert lease(farm, OTHER, agent_id, "host").status_code == 204
    path = f"/leases/{held['lease_id']}"
    problem(farm.call("POST", f"{path}/renew", OTHER, json={"attempt": 1}), 403)
    failure = {"kind": "user", "detail": "it fell"}
    body = {"lease_id": held["lease_id"], "attempt": 1, "outcome": "failed", "failure": failure}
    problem(farm.call("POST", f"{path}/report", OTHER, json=body), 403)
    assert farm.ok("GET", f"/jobs/{held['job_id']}")["status"] == "queued"


def test_agents_of_one_token_pass_a_device_on(any_farm: Farm) -> None:
    registered(any_farm, "agent", "first", "host")
    second = registered(any_farm, "agent", "second", "host")
    any_farm.measure_job()
    assert lease(any_farm, "agent", second, "host").status_code == 200


def test_an_admin_binds_a_device_to_another_token(any_farm: Farm) -> None:
    farm = any_farm
    before = registered(farm, "agent", "before", "host")
    farm.measure_job()
    held = farm.lease(before)
    assert held is not None
    for role in ("agent", OTHER, "user", "viewer"):
        problem(rebind(farm, "host", token_id(farm, OTHER), role), 403)
    assert rebind(farm, "host", token_id(farm, OTHER)).json()["state"] == "offline"
    problem(farm.report(held), 403)
    problem(register(farm, "agent", "before", "host"), 403)
    assert lease(farm, "agent", before, "host").status_code == 204
    after = registered(farm, OTHER, "after", "host")
    again = lease(farm, OTHER, after, "host").json()
    assert (again["job_id"], again["attempt"]) == (held["job_id"], 2)
    assert farm.ok("GET", f"/jobs/{held['job_id']}")["error"] is None


def test_a_device_is_bound_only_to_a_token_that_can_register_it(any_farm: Farm) -> None:
    farm = any_farm
    registered(farm, "agent", "owner", "host")
    problem(rebind(farm, "host", "token-unknown"), 404)
    problem(rebind(farm, "unknown", token_id(farm, OTHER)), 404)
    problem(rebind(farm, "host", token_id(farm, "viewer")), 422)
    farm.ok("POST", "/tokens", json={"name": "gone", "role": "agent"})
    gone = next(token["id"] for token in farm.ok("GET", "/tokens")["items"] if token["name"] == "gone")
    farm.call("DELETE", f"/tokens/{gone}")
    problem(rebind(farm, "host", gone), 422)
    assert rebind(farm, "host", token_id(farm, "agent")).json()["state"] == "idle", "it stays as it is"


def test_a_home_whose_agent_token_is_lost_serves_its_host_with_a_new_one(any_farm: Farm, tmp_path: Path) -> None:
    farm, file = any_farm, tmp_path / "agents" / "host" / "agent.token"
    for _ in range(2):
        ensure_agent_token(farm.database, file, farm.clock)
        farm.secrets["agent-of-host"] = file.read_text().strip()
        registered(farm, "agent-of-host", "host", "host")
        file.unlink()
        farm.clock.pass_seconds(30)


def test_a_host_bound_to_a_revoked_token_goes_back_to_the_token_of_its_machine(farm: Farm, tmp_path: Path) -> None:
    file = tmp_path / "agent.token"
    ensure_agent_token(farm.database, file, farm.clock)
    registered(farm, OTHER, "thief", "host")
    ensure_agent_token(farm.database, file, farm.clock)
    with farm.database.read() as session:
        assert session.get_one(Device, "host").token_id == token_id(farm, OTHER), "an admin may have wanted it"
    with farm.database.write() as session:
        tokens.revoke(session, token_id(farm, OTHER), farm.clock())
    ensure_agent_token(farm.database, file, farm.clock)
    with farm.database.read() as session:
        owner = session.get_one(Token, session.get_one(Device, "host").token_id)
        assert owner.name == "host-agent"


def test_an_agent_downloads_only_the_files_of_leases_that_it_holds(any_farm: Farm) -> None:
    farm = any_farm
    agent_id = registered(farm, "agent", "owner", "host")
    stranger = registered(farm, OTHER, "stranger", "pixel4")
    anchor, other = farm.anchor(), farm.upload(tiny_tflite(3.0))
    other_sha256 = farm.ok("GET", f"/models/{other}")["sha256"]
    farm.measure_job()

    def status(path: str, role: str = "agent") -> int:
        return int(farm.call("GET", path, role).status_code)

    assert status(f"/blobs/{anchor.sha256}") == 403
    held = farm.lease(agent_id)
    assert held is not None
    model_id = farm.ok("GET", f"/jobs/{held['job_id']}")["model_id"]
    for path in (held["model"]["url"], held["anchor"]["url"], f"/models/{model_id}/download"):
        assert (status(path), status(path, OTHER)) == (200, 403)
    for path in (f"/blobs/{other_sha256}", f"/models/{other}/download", "/models/model-unknown/download"):
        problem(farm.call("GET", path, "agent"), 403)
    for format in ("manifest", "card", "onnx", "pt2"):
        assert status(f"/models/{model_id}/download?format={format}") == 403
    assert farm.report(held).status_code == 200
    assert status(held["model"]["url"]) == 403
    assert status(held["model"]["url"], "viewer") == 200
    assert stranger

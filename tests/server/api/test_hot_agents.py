"""Idle agents are answered before the framework, and what is more than that, by the routes: with the same answers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from starlette.types import Send

from server.api import hot_agents
from tests.server.server_farm import Farm, problem


@pytest.fixture
def known(any_farm: Farm) -> tuple[Farm, str]:
    """A farm with an agent whose first heartbeat was written."""
    agent_id = any_farm.agent()
    any_farm.ok("POST", "/agents/heartbeat", "agent", json=beat(agent_id))
    return any_farm, agent_id


def beat(agent_id: str, state: str = "idle", **more: object) -> dict[str, Any]:
    return {"agent_id": agent_id, "devices": [{"name": "host", "state": state}]} | more


@pytest.fixture
def hot(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was answered before the framework, in order."""
    answered: list[str] = []
    send = hot_agents._send

    async def counted(sender: Send, status: int, content: bytes) -> None:
        answered.append(f"{status}")
        await send(sender, status, content)

    monkeypatch.setattr(hot_agents, "_send", counted)
    return answered


def test_a_heartbeat_that_says_nothing_new_has_the_answer_of_the_route(known: tuple[Farm, str], hot: list[str]) -> None:
    farm, agent_id = known
    quick = farm.call("POST", "/agents/heartbeat", "agent", json=beat(agent_id))
    assert hot == ["200"]
    slow = farm.call("POST", "/agents/heartbeat?a=b", "agent", json=beat(agent_id))
    assert hot == ["200"] and quick.status_code == slow.status_code == 200
    assert quick.json() == slow.json() and quick.headers["content-type"] == slow.headers["content-type"]
    assert quick.headers["x-request-id"]


def test_what_is_new_or_wrong_goes_to_the_route(known: tuple[Farm, str], hot: list[str]) -> None:
    farm, agent_id = known
    assert farm.call("POST", "/agents/heartbeat", "agent", json=beat(agent_id, "busy")).status_code == 200
    assert farm.ok("GET", "/devices/host")["state"] == "busy"
    problem(farm.call("POST", "/agents/heartbeat", "agent", json=beat("agent-nobody")), 404)
    problem(farm.call("POST", "/agents/heartbeat", "agent", json=beat(agent_id, unknown=1)), 422)
    problem(
        farm.call("POST", "/agents/heartbeat", "agent", content=b"{", headers={"content-type": "application/json"}), 422
    )
    problem(farm.call("POST", "/agents/heartbeat", "viewer", json=beat(agent_id)), 403)
    # Another token does not speak for the agent.
    problem(farm.call("POST", "/agents/heartbeat", "admin", json=beat(agent_id)), 403)
    assert hot == []


def test_a_wait_for_a_job_ends_in_time_or_with_the_job(known: tuple[Farm, str], hot: list[str]) -> None:
    farm, agent_id = known
    asked = {"agent_id": agent_id, "devices": ["host"]}
    begun_s = time.monotonic()
    answer = farm.call("POST", "/leases", "agent", json=asked | {"wait_seconds": 0.3})
    assert answer.status_code == 204 and not answer.content and 0.3 <= time.monotonic() - begun_s < 10
    model_id = farm.upload()
    farm.ok("POST", "/jobs", json={"kind": "measure", "device": "host", "model_id": model_id})
    begun_s = time.monotonic()
    assert farm.ok("POST", "/leases", "agent", json=asked | {"wait_seconds": 30.0})["device"] == "host"
    assert time.monotonic() - begun_s < 10
    problem(farm.call("POST", "/leases", "agent", json=asked | {"wait_seconds": 31.0}), 422)
    problem(farm.call("POST", "/leases", "agent", json=asked | {"agent_id": "nobody", "wait_seconds": 30.0}), 404)

"""An agent that waits for jobs: its claims show that it is alive, so its heartbeats may be rare."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.wire import DeviceState
from tests.device_agent.agent_farm import Farm, wait_until

WAITS, BUSY = 6, [DeviceState.BUSY] * 3


@pytest.mark.medium
def test_while_its_device_waits_an_agent_sends_fewer_heartbeats(agent_farm: Farm, tmp_path: Path) -> None:
    server, go = agent_farm.server, tmp_path / "go"
    server.wait_seconds, server.idle_heartbeat_seconds = 0.5, 3600.0
    agent_farm.start()
    wait_until("the first waits", lambda: server.calls["/leases"] >= 2)
    before = len(server.beats)
    wait_until("more waits", lambda: server.calls["/leases"] >= 2 + WAITS)
    # One more only where the agent looked just between two waits; every 0.1 s it would be dozens.
    assert len(server.beats) - before <= WAITS // 2
    assert server.beats[-1].devices[0].state.value == "idle"
    server.job(agent_farm.model("slow", until=str(go)))
    # Its device is busy now, and no wait shows that it is alive.
    wait_until(
        "heartbeats of a busy device", lambda: [beat.devices[0].state for beat in server.beats[-3:]] == ["busy"] * 3
    )
    go.touch()
    agent_farm.wait_for_report()


@pytest.mark.medium
def test_without_an_interval_for_idle_agents_heartbeats_come_as_often_as_ever(agent_farm: Farm) -> None:
    server = agent_farm.server
    server.wait_seconds = 25.0
    agent_farm.start()
    wait_until("the first wait", lambda: server.calls["/leases"] >= 1)
    before = len(server.beats)
    wait_until("heartbeats", lambda: len(server.beats) >= before + 5)
    assert server.calls["/leases"] == 1

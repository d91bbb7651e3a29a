"""How often agents are to call: less often where they are many, so that together they do not call more often."""

from __future__ import annotations

from typing import Any

from server.api.routes.deps import State
from server.wire import MAX_WAIT_SECONDS

HEARTBEATS_A_SECOND, IDLE_HEARTBEATS_A_SECOND, POLLS_A_SECOND = 65.0, 20.0, 200.0  # of all agents of a process
MAX_IDLE_SECONDS = 60.0
"""Between two heartbeats of an agent that waits for jobs: they carry its readings; its waits show that it is alive."""


def intervals(state: State) -> dict[str, Any]:
    """The fields that the answers to a registration and to a heartbeat have in common."""
    settings, agents = state.settings, len(state.heartbeats)
    most = max(settings.heartbeat_seconds, settings.offline_after_seconds / 2)
    idle_seconds = max(settings.heartbeat_seconds, min(MAX_IDLE_SECONDS, agents / IDLE_HEARTBEATS_A_SECOND))
    return {
        "heartbeat_seconds": min(most, max(settings.heartbeat_seconds, agents / HEARTBEATS_A_SECOND)),
        "idle_heartbeat_seconds": idle_seconds,
        "poll_seconds": max(settings.poll_seconds, agents / POLLS_A_SECOND),
        "lease_seconds": settings.lease_seconds,
        "renew_seconds": settings.renew_seconds,
        # A wait counts as a heartbeat when it begins, and the next one must begin in time.
        "wait_seconds": min(MAX_WAIT_SECONDS, settings.offline_after_seconds * 5 / 6),
        "server_time": state.now,
    }

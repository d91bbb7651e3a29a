"""How often agents are to call: less often where they are many, so that together they do not call more often."""

from __future__ import annotations

from typing import Any

from server.api.routes.deps import State
from server.wire import MAX_WAIT_SECONDS

HEARTBEATS_A_SECOND, POLLS_A_SECOND = 65.0, 200.0  # of all agents that a server process hears


def intervals(state: State) -> dict[str, Any]:
    """The fields that the answers to a registration and to a heartbeat have in common."""
    settings, agents = state.settings, len(state.heartbeats)
    most = max(settings.heartbeat_seconds, settings.offline_after_seconds / 2)
    return {
        "heartbeat_seconds": min(most, max(settings.heartbeat_seconds, agents / HEARTBEATS_A_SECOND)),
        "poll_seconds": max(settings.poll_seconds, agents / POLLS_A_SECOND),
        "lease_seconds": settings.lease_seconds,
        "renew_seconds": settings.renew_seconds,
        "wait_seconds": MAX_WAIT_SECONDS,
        "server_time": state.now,
    }

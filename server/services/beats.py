"""Heartbeats of many agents, written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, bindparam, update
from sqlmodel import Session

from server.services.storable import storable
from server.store.tables import Agent, Device
from server.wire import DeviceBeat

AGENTS = Agent.__table__  # type: ignore[attr-defined]
DEVICES = Device.__table__  # type: ignore[attr-defined]
SEEN = update(AGENTS).where(AGENTS.c.id == bindparam("agent")).values(last_seen_at=bindparam("at"))
BEAT = (
    update(DEVICES)
    .where(DEVICES.c.name == bindparam("device"), DEVICES.c.agent_id == bindparam("agent"))
    .values(last_seen_at=bindparam("at"), state=bindparam("now"), conditions=bindparam("readings"))
)


@dataclass(frozen=True)
class Beat:
    """The last heartbeat of an agent, when it came, and what it said of the devices."""

    at: datetime
    devices: Sequence[DeviceBeat]


def write(session: Session, beats: Mapping[str, Beat]) -> bool:
    """Store heartbeats by the agents' ids. False where a device belongs to another agent by now; it is not changed.

    Rows are changed in order, so that two server processes that hear the same agents never wait for each other.
    """
    seen = [{"agent": agent_id, "at": beats[agent_id].at} for agent_id in sorted(beats)]
    rows = [
        {
            "agent": agent_id,
            "at": beat.at,
            "device": one.name,
            "now": one.state.value,
            "readings": storable(one.conditions),
        }
        for agent_id, beat in beats.items()
        for one in beat.devices
    ]
    rows.sort(key=lambda row: str(row["device"]))
    return _matched(session, SEEN, seen) + _matched(session, BEAT, rows) == len(seen) + len(rows)


def _matched(session: Session, statement: Any, rows: Sequence[dict[str, Any]]) -> int:  # noqa: ANN401  an UPDATE
    if not rows:
        return 0
    result = session.connection().execute(statement, rows)
    assert isinstance(result, CursorResult)
    return int(result.rowcount)

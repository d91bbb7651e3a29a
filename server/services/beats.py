"""Heartbeats of many agents, written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Table, bindparam, update
from sqlmodel import Session, col, select

from server.services import devices
from server.services.storable import storable
from server.store.tables import Agent, Device
from server.wire import DeviceBeat, DeviceState

AGENTS = Agent.__table__  # type: ignore[attr-defined]
DEVICES = Device.__table__  # type: ignore[attr-defined]
# Another process may have heard more of the agent while these heartbeats waited for a flush; a row that is further
# ahead than that has its time from before the clock was set back.
MAX_WAIT, TICK = timedelta(seconds=60), timedelta(microseconds=1)


def _older(table: Table) -> ColumnElement[bool]:
    return ~table.c.last_seen_at.between(bindparam("after"), bindparam("until"))


SEEN = update(AGENTS).where(AGENTS.c.id == bindparam("agent"), _older(AGENTS)).values(last_seen_at=bindparam("at"))
BEAT = (
    update(DEVICES)
    .where(DEVICES.c.name == bindparam("device"), DEVICES.c.agent_id == bindparam("agent"), _older(DEVICES))
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
    seen = [_times(agent_id, beats[agent_id]) for agent_id in sorted(beats)]
    rows = [
        _times(agent_id, beat) | {"device": one.name, "now": one.state.value, "readings": storable(one.conditions)}
        for agent_id, beat in beats.items()
        for one in beat.devices
    ]
    rows.sort(key=lambda row: str(row["device"]))
    changed = _matched(session, SEEN, seen) + _matched(session, BEAT, rows)
    return changed == len(seen) + len(rows) or _all_there(session, beats)


def _all_there(session: Session, beats: Mapping[str, Beat]) -> bool:
    """Whether the rows that were not changed were newer."""
    agents = set(session.exec(select(Agent.id).where(col(Agent.id).in_(beats))))
    found = set(session.exec(select(Device.agent_id, Device.name).where(col(Device.agent_id).in_(beats))))
    return agents == set(beats) and all(
        (agent_id, one.name) in found for agent_id, beat in beats.items() for one in beat.devices
    )


def last(session: Session, agent_id: str, token_id: str) -> tuple[datetime, list[DeviceBeat]]:
    """When the agent was seen, and what is stored of its devices. Raises NotFound, Forbidden."""
    seen_at = devices.get_agent(session, agent_id, token_id).last_seen_at
    columns = select(Device.name, Device.state, Device.conditions)
    found = session.exec(columns.where(Device.agent_id == agent_id, Device.token_id == token_id))
    return seen_at, [
        DeviceBeat(name=name, state=DeviceState(state), conditions=conditions) for name, state, conditions in found
    ]


def _times(agent_id: str, beat: Beat) -> dict[str, Any]:
    return {"agent": agent_id, "at": beat.at, "after": beat.at + TICK, "until": beat.at + MAX_WAIT}


def _matched(session: Session, statement: Any, rows: Sequence[dict[str, Any]]) -> int:  # noqa: ANN401  an UPDATE
    if not rows:
        return 0
    result = session.connection().execute(statement, rows)
    assert isinstance(result, CursorResult)
    return int(result.rowcount)

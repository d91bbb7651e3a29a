"""Heartbeats of many agents, written together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Boolean, ColumnElement, CursorResult, Table, bindparam, case, update
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
    .values(
        last_seen_at=bindparam("at"),
        state=bindparam("now"),
        # One statement for both kinds: rows are locked in one order.
        conditions=case(
            (bindparam("has_readings", type_=Boolean), bindparam("readings", type_=JSON)), else_=DEVICES.c.conditions
        ),
    )
)


@dataclass(frozen=True)
class Said:
    """What an agent said of a device; `conditions` is None where it said nothing of them."""

    state: DeviceState
    conditions: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Beat:
    """When an agent called last, and what it said of its devices, by their names."""

    at: datetime
    devices: Mapping[str, Said]

    @classmethod
    def of(cls, at: datetime, beats: Iterable[DeviceBeat]) -> Beat:
        return cls(at, {beat.name: Said(beat.state, beat.conditions) for beat in beats})

    def and_idle(self, at: datetime, names: Iterable[str]) -> Beat:
        """With a claim for these devices."""
        said = {name: self.devices.get(name) for name in names}
        idle = {name: Said(DeviceState.IDLE, one.conditions if one else None) for name, one in said.items()}
        return Beat(at, {**self.devices, **idle})


def write(session: Session, beats: Mapping[str, Beat]) -> bool:
    """Store heartbeats by the agents' ids. False where a device belongs to another agent by now; it is not changed.

    Rows are changed in order, so that two server processes that hear the same agents never wait for each other.
    """
    seen = [_times(agent_id, beats[agent_id]) for agent_id in sorted(beats)]
    rows = [
        _times(agent_id, beat) | _row(name, said)
        for agent_id, beat in beats.items()
        for name, said in beat.devices.items()
    ]
    rows.sort(key=lambda row: str(row["device"]))
    changed = _matched(session, SEEN, seen) + _matched(session, BEAT, rows)
    return changed == len(seen) + len(rows) or _all_there(session, beats)


def _all_there(session: Session, beats: Mapping[str, Beat]) -> bool:
    """Whether the rows that were not changed were newer."""
    agents = set(session.exec(select(Agent.id).where(col(Agent.id).in_(beats))))
    found = set(session.exec(select(Device.agent_id, Device.name).where(col(Device.agent_id).in_(beats))))
    return agents == set(beats) and all(
        (agent_id, name) in found for agent_id, beat in beats.items() for name in beat.devices
    )


def last(session: Session, agent_id: str, token_id: str) -> tuple[datetime, dict[str, DeviceState]]:
    """When the agent was seen, and the stored states of its devices. Raises NotFound, Forbidden."""
    seen_at = devices.get_agent(session, agent_id, token_id).last_seen_at
    mine = (Device.agent_id == agent_id, Device.token_id == token_id)
    found = session.exec(select(Device.name, Device.state).where(*mine))
    return seen_at, {name: DeviceState(state) for name, state in found}


def _times(agent_id: str, beat: Beat) -> dict[str, Any]:
    return {"agent": agent_id, "at": beat.at, "after": beat.at + TICK, "until": beat.at + MAX_WAIT}


def _row(name: str, said: Said) -> dict[str, Any]:
    has_readings, readings = said.conditions is not None, storable(dict(said.conditions or {}))
    return {"device": name, "now": said.state.value, "has_readings": has_readings, "readings": readings}


def _matched(session: Session, statement: Any, rows: Sequence[dict[str, Any]]) -> int:  # noqa: ANN401  an UPDATE
    if not rows:
        return 0
    result = session.connection().execute(statement, rows)
    assert isinstance(result, CursorResult)
    return int(result.rowcount)

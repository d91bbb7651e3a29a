"""Whether a device is away: an absence says nothing about the job that waits for it."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session

from server.store.tables import Device
from server.wire import DeviceState

SILENT_SECONDS = 30.0  # more than an agent that waits for jobs lets pass between two requests
# An agent that measures sends heartbeats more often; less than the lease that it lets run out when it goes.
HOLDER_SILENT_SECONDS = 20.0


def is_away(session: Session, name: str | None, now: datetime) -> bool:
    """Whether a device on which a job ran is not known, is not served by its agent any more, or nothing was heard of
    it for a while."""
    return name is None or away_since(session, name, now, HOLDER_SILENT_SECONDS) is not None


def away_since(session: Session, name: str, now: datetime, silent_seconds: float = SILENT_SECONDS) -> datetime | None:
    """When an absent device was last heard of; `now` for one that is not known, None for one that is there."""
    device = session.get(Device, name)
    if device is None:
        return now
    is_silent = now - device.last_seen_at > timedelta(seconds=silent_seconds)
    return device.last_seen_at if is_silent or device.state == DeviceState.OFFLINE else None

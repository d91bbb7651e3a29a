"""Whether a device is away: an absence says nothing about the job that waits for it."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session

from server.store.tables import Device
from server.wire import DeviceState

# Several heartbeats, and less than the lease that an agent lets run out when it goes.
SILENT_SECONDS = 20.0


def is_away(session: Session, name: str | None, now: datetime, silent_seconds: float = SILENT_SECONDS) -> bool:
    """Whether the device is not known, its agent does not serve it any more, or nothing was heard of it for a while."""
    return name is None or away_since(session, name, now, silent_seconds) is not None


def away_since(session: Session, name: str, now: datetime, silent_seconds: float = SILENT_SECONDS) -> datetime | None:
    """When an absent device was last heard of; `now` for one that is not known, None for one that is there."""
    device = session.get(Device, name)
    if device is None:
        return now
    is_silent = now - device.last_seen_at > timedelta(seconds=silent_seconds)
    return device.last_seen_at if is_silent or device.state == DeviceState.OFFLINE else None

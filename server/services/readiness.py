"""What the server needs before it can answer a search."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from sqlmodel import Session

from server.services import devices, predictors, supernets, tokens
from server.store.tables import Device
from server.wire import HOST, DeviceState


def waiting_for(
    session: Session,
    *,
    admin_token_file: Path,
    supernets_folder: Path,
    expect_host: bool,
    now: datetime,
    offline_after: timedelta,
) -> list[str]:
    """Names of what is missing: admin_token, supernet, host_idle, host_predictor; empty when ready."""
    missing = []
    if tokens.read_secret(admin_token_file) is None:
        missing.append("admin_token")
    supernet = supernets.default(session)
    if supernet is None or not supernets.path(supernet, supernets_folder).is_file():
        missing.append("supernet")
    if expect_host:
        host = session.get(Device, HOST)
        if host is None or devices.state(session, host, now, offline_after) is not DeviceState.IDLE:
            missing.append("host_idle")
        if host is None or supernet is None or predictors.newest(session, host.profile_id, supernet.name) is None:
            missing.append("host_predictor")
    return missing

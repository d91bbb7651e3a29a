"""Which token a device belongs to: the one that registered it first, until an admin binds it to another."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, select

from server.errors import BadValue, Forbidden, NotFound
from server.services import job_ends
from server.services.jobs import TAKEN
from server.store.tables import Device, Job, Token
from server.wire import DeviceState, JobKind, Role


def locked(session: Session, name: str) -> Device | None:
    """The device, which no other transaction can register or rebind before this one ends."""
    return session.get(Device, name, with_for_update=True, populate_existing=True)


def check(session: Session, device: Device, token_id: str) -> None:
    """Raises Forbidden for a device of another token. A device without a token belongs to the next that asks."""
    if device.token_id in (None, token_id):
        return
    owner = session.get(Token, device.token_id)
    name = f"'{owner.name}'" if owner is not None else "that is not known any more"
    raise Forbidden(
        f"device '{device.name}' belongs to the token {name}: give your device another name, or have an admin bind it "
        f"to your token with `elasticvit devices rebind {device.name} {token_id}`"
    )


def rebind(session: Session, name: str, token_id: str, now: datetime) -> Device:
    """Bind a device to another token. It is offline until an agent with that token registers it, and the jobs that the
    agent before works on return to the queue.

    Raises NotFound for an unknown device or token, BadValue for a token that cannot register devices.
    """
    device = locked(session, name)
    if device is None:
        raise NotFound(f"there is no device '{name}': GET /devices lists them")
    token = session.get(Token, token_id)
    if token is None:
        raise NotFound(f"there is no token '{token_id}': GET /tokens lists them")
    if token.revoked_at is not None or token.role not in (Role.AGENT, Role.ADMIN):
        raise BadValue(f"token '{token_id}' cannot register devices: give one of role agent that is not revoked")
    if device.token_id == token_id:
        return device
    _release(session, device, now)
    device.token_id, device.state = token_id, DeviceState.OFFLINE.value
    session.add(device)
    session.flush()
    return device


def _release(session: Session, device: Device, now: datetime) -> None:
    """Put the measuring jobs that are leased for a device back into the queue; counts no failure."""
    measuring = (Job.device == device.name, Job.kind == JobKind.MEASURE.value, col(Job.status).in_(TAKEN))
    for job in session.exec(select(Job).where(*measuring).order_by(col(Job.id))).all():
        assert job.lease_id is not None
        job_ends.release(session, job.lease_id, job.attempts, now)

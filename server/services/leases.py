"""Leases as agents receive them, and what they allow: the report on a lease, and the download of its files."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, select

from server.errors import Forbidden
from server.services import claims, device_binding, devices, jobs, models
from server.services.jobs import TAKEN
from server.store.tables import Agent, Attempt, Device, Job
from server.wire import JobKind, Lease, MeasureProtocol


def check_holder(session: Session, lease_id: str, token_id: str) -> None:
    """Raises NotFound, and Forbidden for the lease of an agent with another token or on a device that was bound to
    another token since."""
    attempt = claims.get_attempt(session, lease_id)
    agent = session.get(Agent, attempt.owner)
    if agent is None or agent.token_id != token_id:
        raise Forbidden(f"lease '{lease_id}' belongs to another agent")
    job = jobs.get(session, attempt.job_id)
    device = session.get(Device, job.device) if job.device is not None else None
    if device is not None:
        device_binding.check(session, device, token_id)


def check_download(session: Session, sha256: str, token_id: str) -> None:
    """Raises Forbidden unless the token holds a lease that names this file: as its model, or as the anchor."""
    held = (
        select(Job.model_id)
        .join(Attempt, col(Attempt.id) == Job.lease_id)
        .join(Agent, col(Agent.id) == Attempt.owner)
        .join(Device, col(Device.name) == Job.device)
        .where(Agent.token_id == token_id, Device.token_id == token_id, col(Job.status).in_(TAKEN))
    )
    leased = session.exec(held).all()
    anchor = models.anchor(session)
    files = {models.get(session, model_id).sha256 for model_id in leased if model_id is not None}
    if leased and anchor is not None:
        files.add(anchor.sha256)
    if sha256 not in files:
        raise Forbidden("a token of role agent downloads only the files of leases that it holds: claim a lease first")


def grant(session: Session, agent: Agent, names: list[str], now: datetime, lease_seconds: float) -> Lease | None:
    """Claim the next measuring job for the agent's own devices among `names`; None when no job is queued."""
    claimed = claims.claim_device(session, agent.id, devices.owned(session, agent, names), now, lease_seconds)
    if claimed is None:
        return None
    job = claimed.job
    assert job.model_id is not None and job.device is not None
    protocol = MeasureProtocol.model_validate(job.payload["protocol"])
    attempt = claims.get_attempt(session, claimed.lease_id)
    attempt.profile = devices.registered_profile(session, job.device, protocol).model_dump(mode="json")
    session.add(attempt)
    anchor = models.anchor(session)
    return Lease(
        lease_id=claimed.lease_id,
        attempt=claimed.attempt,
        job_id=job.id,
        expires_at=claimed.expires_at,
        kind=JobKind.MEASURE,
        device=job.device,
        model=models.ref(models.get(session, job.model_id)),
        anchor=models.ref(anchor) if anchor else None,
        protocol=protocol,
    )

"""Leases as agents receive them."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from server.errors import Forbidden
from server.services import claims, devices, models
from server.store.tables import Agent
from server.wire import JobKind, Lease, MeasureProtocol


def check_holder(session: Session, lease_id: str, token_id: str) -> None:
    """Raises NotFound, and Forbidden for the lease of an agent with another token."""
    agent = session.get(Agent, claims.get_attempt(session, lease_id).owner)
    if agent is None or agent.token_id != token_id:
        raise Forbidden(f"lease '{lease_id}' belongs to another agent")


def grant(session: Session, agent_id: str, names: list[str], now: datetime, lease_seconds: float) -> Lease | None:
    """Claim the next measuring job for the agent's own devices among `names`; None when no job is queued."""
    claimed = claims.claim_device(session, agent_id, devices.owned(session, agent_id, names), now, lease_seconds)
    if claimed is None:
        return None
    job = claimed.job
    assert job.model_id is not None and job.device is not None
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
        protocol=MeasureProtocol.model_validate(job.payload["protocol"]),
    )

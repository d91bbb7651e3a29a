"""The agents' protocol: register, heartbeat, lease, renew, report."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from server.api.routes.deps import AgentToken, DevicesAgent, Reporter, State, TheState
from server.errors import BadValue
from server.services import claims, devices, leases, reports
from server.wire import (
    AgentRegister,
    AgentRegistered,
    Heartbeat,
    HeartbeatReply,
    JobKind,
    Lease,
    LeaseRenewal,
    LeaseRenewed,
    LeaseRequest,
    Report,
    Reported,
)

router = APIRouter(tags=["agents"])


@router.post("/agents/register")
def register(body: AgentRegister, state: TheState, token: DevicesAgent) -> AgentRegistered:
    with state.database.write() as session:
        agent = devices.register(session, body, token.id, state.now, state.settings.offline_after)
        return AgentRegistered(agent_id=agent.id, **_intervals(state))


@router.post("/agents/heartbeat")
def heartbeat(body: Heartbeat, state: TheState, token: DevicesAgent) -> HeartbeatReply:
    with state.database.write() as session:
        devices.heartbeat(session, body.agent_id, body.devices, token.id, state.now)
        return HeartbeatReply(**_intervals(state))


@router.post("/leases", responses={200: {"model": Lease}, 204: {"description": "No job is queued"}})
def lease(body: LeaseRequest, state: TheState, token: AgentToken) -> Any:  # noqa: ANN401  a Lease or an empty answer
    """The next job for one of the idle devices; 204 when none is queued."""
    with state.database.read() as session:
        agent = devices.get_agent(session, body.agent_id, token.id)
        owned = devices.owned(session, agent, body.devices)
        if not claims.waiting(session, (JobKind.MEASURE,), owned, now=state.now):
            return Response(status_code=204)
    with state.database.write() as session:
        agent = devices.get_agent(session, body.agent_id, token.id)
        given = leases.grant(session, agent, body.devices, state.now, state.settings.lease_seconds)
        return given or Response(status_code=204)


@router.post("/leases/{lease_id}/renew")
def renew(lease_id: str, body: LeaseRenewal, state: TheState, token: AgentToken) -> LeaseRenewed:
    """Keep the lease. Called often, so that an agent learns soon of a cancellation, it mostly reads."""
    held = (lease_id, body.attempt, state.now, state.settings.lease_seconds, body.progress)
    with state.database.read() as session:
        leases.check_holder(session, lease_id, token.id)
        if (unchanged := claims.held_until(session, *held)) is not None:
            return LeaseRenewed(lease_id=lease_id, attempt=body.attempt, expires_at=unchanged)
    with state.database.write() as session:
        expires_at = claims.renew(session, *held)
        return LeaseRenewed(lease_id=lease_id, attempt=body.attempt, expires_at=expires_at)


@router.post("/leases/{lease_id}/report")
def report(lease_id: str, body: Report, state: TheState, token: Reporter) -> Reported:
    if body.lease_id != lease_id:
        raise BadValue(f"the report is for lease '{body.lease_id}', sent to '{lease_id}'")
    with state.database.write() as session:
        leases.check_holder(session, lease_id, token.id)
        reported = reports.accept(session, body, state.now)
    state.notifier.notify()  # a parked job may go on now
    return reported


def _intervals(state: State) -> dict[str, Any]:
    settings = state.settings
    return {
        "heartbeat_seconds": settings.heartbeat_seconds,
        "poll_seconds": settings.poll_seconds,
        "lease_seconds": settings.lease_seconds,
        "renew_seconds": settings.renew_seconds,
        "server_time": state.now,
    }

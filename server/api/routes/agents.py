"""The agents' protocol: register, heartbeat, lease, renew, report."""

from __future__ import annotations

import time
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from server.api.edge.access import ON_GONE
from server.api.hot_agents import DEADLINE
from server.api.intervals import intervals
from server.api.routes.deps import AgentToken, DevicesAgent, Reporter, State, TheState
from server.api.things import JSON_TYPE
from server.errors import BadValue
from server.services import claims, devices, leases, reports
from server.store.hints import device_topic
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
        return AgentRegistered(agent_id=agent.id, **intervals(state))


@router.post("/agents/heartbeat", response_model=HeartbeatReply)
async def heartbeat(body: Heartbeat, state: TheState, token: DevicesAgent) -> Response:
    await state.heartbeats.hear(body, token.id)
    return Response(HeartbeatReply(**intervals(state)).model_dump_json(), media_type=JSON_TYPE)


@router.post("/leases", response_model=Lease, responses={204: {"description": "No job is queued"}})
async def lease(body: LeaseRequest, request: Request, state: TheState, token: AgentToken) -> Any:  # noqa: ANN401  a Lease or an empty answer
    """The next job for one of the idle devices; 204 when none is queued. With `wait_seconds` it waits for one."""
    deadline_s = request.scope["state"].get(DEADLINE) or time.monotonic() + body.wait_seconds
    await _hear_claim(state, body, token.id)
    with state.watch.waiting([device_topic(name) for name in body.devices]) as waiting:
        request.scope["state"][ON_GONE] = waiting.leave
        while True:
            waiting.clear()
            given = None
            # A job is not given to an agent that has gone: it would wait for the lease to run out.
            if await _may_claim(state, body, token.id) and not await request.is_disconnected():
                given = await run_in_threadpool(_granted, state, body, token.id)
            if given is not None or not await waiting.until(deadline_s):
                return given or Response(status_code=204)


async def _hear_claim(state: State, body: LeaseRequest, token_id: str) -> None:
    """Raises NotFound, Forbidden."""
    if not state.heartbeats.hear_claim(body.agent_id, token_id, body.devices):
        await state.heartbeats.learn(body.agent_id, token_id)
        state.heartbeats.hear_claim(body.agent_id, token_id, body.devices)


async def _may_claim(state: State, body: LeaseRequest, token_id: str) -> bool:
    """Whether a job may wait for the agent; for one that is known, mostly without a thread. Raises NotFound,
    Forbidden."""
    is_known = state.heartbeats.knows(body.agent_id, token_id, body.devices)
    if is_known and await state.queue.is_empty(body.devices, body.wait_seconds):
        return False
    return await run_sync(_has_job, state, body, token_id, limiter=state.reads)


def _has_job(state: State, body: LeaseRequest, token_id: str) -> bool:
    with state.database.read() as session:
        agent = devices.get_agent(session, body.agent_id, token_id)
        owned = devices.owned(session, agent, body.devices)
        return claims.waiting(session, (JobKind.MEASURE,), owned, now=state.now)


def _granted(state: State, body: LeaseRequest, token_id: str) -> Lease | None:
    with state.database.write() as session:
        agent = devices.get_agent(session, body.agent_id, token_id)
        return leases.grant(session, agent, body.devices, state.now, state.settings.lease_seconds)


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
        return reports.accept(session, body, state.now)

"""What idle agents ask for all the time, answered before the framework: a heartbeat that says nothing new, and the wait
for a job.

A thousand idle agents send 150 requests a second, and the framework takes several times as long for one as the answer
itself. Everything else goes on to it: agents that are not known yet, changes, a job that has come, errors.
"""

from __future__ import annotations

import time
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.edge import bodies
from server.api.edge.access import ON_GONE, TOKEN
from server.api.intervals import intervals
from server.api.routes.deps import State
from server.store.hints import device_topic
from server.wire import Heartbeat, HeartbeatReply, LeaseRequest

TYPE = (b"content-type", b"application/json")
DEADLINE = "deadline"  # in the scope's state: a wait for a job that has begun here ends then
LONG_SECONDS, TOGETHER_SECONDS = 10.0, 0.5
"""A request that comes alone costs more than one of several, which finds the processor's caches warm."""
M = TypeVar("M", bound=BaseModel)
HEARTBEAT, LEASES = "/agents/heartbeat", "/leases"


class HotAgents:
    """An ASGI middleware behind the gate, which has checked the token and has read the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_hot(scope):
            await self.app(scope, receive, send)
            return
        message = await receive()
        body, state = message.get("body", b""), scope["app"].state.server
        token_id: str = scope["state"][TOKEN].id
        if scope["path"] == HEARTBEAT:
            answered = await _beat(state, body, token_id, send)
        else:
            answered = await _wait(state, body, token_id, scope, send)
        if not answered:
            await self.app(scope, bodies.replayed(body, receive), send)


def _is_hot(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in (HEARTBEAT, LEASES):
        return False
    return TOKEN in scope["state"] and not scope["query_string"] and TYPE in scope["headers"]


async def _beat(state: State, body: bytes, token_id: str, send: Send) -> bool:
    heartbeat = _read(Heartbeat, body)
    if heartbeat is None or not state.heartbeats.hear_again(heartbeat, token_id):
        return False
    await _send(send, 200, HeartbeatReply(**intervals(state)).model_dump_json().encode())
    return True


async def _wait(state: State, body: bytes, token_id: str, scope: Scope, send: Send) -> bool:
    """Wait while no job is queued; as soon as one may be, the route looks for it."""
    asked = _read(LeaseRequest, body)
    if asked is None or not asked.wait_seconds:
        return False
    if not state.heartbeats.hear_claim(asked.agent_id, token_id, asked.devices):
        return False
    deadline_s = scope["state"][DEADLINE] = _end_s(asked.wait_seconds)
    with state.watch.waiting([device_topic(name) for name in asked.devices]) as waiting:
        scope["state"][ON_GONE] = waiting.leave
        is_empty = await state.queue.is_empty(asked.devices, asked.wait_seconds)
        if not is_empty or await waiting.until(deadline_s):
            return False
    await _send(send, 204, b"")
    return True


def _end_s(wait_seconds: float) -> float:
    """When a wait ends, by the monotonic clock: long ones that end in the same half second end together."""
    end_s = time.monotonic() + wait_seconds
    return end_s - end_s % TOGETHER_SECONDS if wait_seconds >= LONG_SECONDS else end_s


def _read(model: type[M], body: bytes) -> M | None:
    """None for a body that the route is to refuse."""
    try:
        return model.model_validate_json(body)
    except ValidationError:
        return None


async def _send(send: Send, status: int, content: bytes) -> None:
    length = (b"content-length", b"%d" % len(content))
    await send({"type": "http.response.start", "status": status, "headers": [TYPE, length] if content else []})
    await send({"type": "http.response.body", "body": content})

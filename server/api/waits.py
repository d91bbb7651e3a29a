"""How long a request may wait, and the events that a client follows: `wait_seconds` and `…/events`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import StreamingResponse

from server.api.answer_cache import Answer
from server.api.things import Things, matches
from server.api.watch import Watch
from server.store.hints import job_topic
from server.wire import MAX_WAIT_SECONDS

HEARTBEAT_SECONDS = 15.0
RETRY_MS = 2000
EVENT_TYPE = "text/event-stream"
EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("event", "id", "data")}}
"""Of `status`, `data` is the job or search as JSON."""
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENT_TYPE: {"schema": EVENT}}, "description": "Server-sent events"}
}
WaitSeconds = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for the end, or for a change from the If-None-Match"),
]


async def settled(watch: Watch, things: Things, thing_id: str, job_id: str, held: str | None, seconds: float) -> Answer:
    """The thing once it is finished or, with the tag that the client holds, once it is another; at the latest after
    some seconds. Raises NotFound."""
    deadline = time.monotonic() + seconds
    with watch.waiting([job_topic(job_id)]) as waiting:
        while True:
            waiting.clear()
            answer = await things.answer(thing_id)
            is_news = answer.is_finished or (held is not None and not matches(held, answer.etag))
            if is_news or not await waiting.within(deadline - time.monotonic()):
                return answer


def events(request: Request, watch: Watch, things: Things, thing_id: str, job_id: str) -> StreamingResponse:
    """A stream of `status` events: the view as it is now, and at each change, until it is finished."""
    # A client that comes back names the last event that it had, and gets the view only if it changed meanwhile.
    last = request.headers.get("last-event-id")
    content = stream(watch, things, thing_id, job_id, f'"{last}"' if last else None)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(content, media_type=EVENT_TYPE, headers=headers)


async def stream(watch: Watch, things: Things, thing_id: str, job_id: str, sent: str | None) -> AsyncIterator[bytes]:
    """The bytes of the events. `sent` is the entity tag of the view that the client has."""
    yield f"retry: {RETRY_MS}\n\n".encode()
    with watch.waiting([job_topic(job_id)]) as waiting:
        while not waiting.over:
            waiting.clear()
            answer = await things.answer(thing_id)
            if answer.etag != sent:
                sent = answer.etag
                yield b"event: status\nid: " + sent.strip('"').encode() + b"\ndata: " + answer.content + b"\n\n"
            if answer.is_finished:
                return
            while not waiting.over and not await waiting.within(HEARTBEAT_SECONDS):
                yield b": still here\n\n"

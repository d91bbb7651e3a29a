"""Dependencies of routes: the app's state, the caller's token, the requested page."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, Header, Query, Request, Response
from sqlalchemy import ColumnElement

from server.api.batches import Batches
from server.api.edge.access import Allow, Body
from server.api.edge.bodies import Departed
from server.api.edge.token_cache import TokenCache
from server.api.heartbeats import Heartbeats
from server.api.lists import Lists
from server.api.metrics import Metrics
from server.api.shared_call import SharedCall
from server.api.sweeper import Sweeper
from server.api.things import JSON_TYPE, AllThings
from server.api.watch import Watch
from server.clock import Clock
from server.services import quick_measure
from server.services.readiness import Check
from server.services.summaries import Summaries
from server.services.uploads import Uploads
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database
from server.store.raw_rows import QueuedFor
from server.store.tables import Token
from server.wire import Accepted, Role

Done = TypeVar("Done")


@dataclass
class State:
    """Everything an app holds while it runs."""

    settings: Settings
    database: Database
    blobs: Blobs
    metrics: Metrics
    clock: Clock
    things: AllThings
    lists: Lists
    watch: Watch
    reads: CapacityLimiter
    writes: CapacityLimiter
    heartbeats: Heartbeats
    queue: QueuedFor
    measuring: Batches[quick_measure.Wanted, Accepted | None]
    """Queues measuring jobs, many in one transaction."""
    tokens: TokenCache
    sweeper: Sweeper
    uploads: Uploads
    readiness: SharedCall[list[Check]] = field(default_factory=SharedCall)
    was_ready: bool = False

    @property
    def now(self) -> datetime:
        return self.clock()


async def get_state(request: Request) -> State:
    """A coroutine, since a plain function would wait for a thread."""
    state: State = request.app.state.server
    return state


TheState = Annotated[State, Depends(get_state)]

# Who may call a route, and how large its body may be. The gate reads it from the routes (server/api/edge/access.py).
Reader = Annotated[Token, Depends(Allow(Role.ADMIN, Role.USER, Role.VIEWER))]
UserToken = Annotated[Token, Depends(Allow(Role.ADMIN, Role.USER))]
Uploader = Annotated[Token, Depends(Allow(Role.ADMIN, Role.USER, body=Body.UPLOAD))]
AgentToken = Annotated[Token, Depends(Allow(Role.AGENT, Role.ADMIN))]
DevicesAgent = Annotated[Token, Depends(Allow(Role.AGENT, Role.ADMIN, body=Body.AGENT))]
Reporter = Annotated[Token, Depends(Allow(Role.AGENT, Role.ADMIN, body=Body.REPORT))]
Downloader = Annotated[Token, Depends(Allow(Role.ADMIN, Role.USER, Role.VIEWER, Role.AGENT))]
Admin = Annotated[Token, Depends(Allow(Role.ADMIN))]

PageToken = Annotated[str | None, Query(max_length=100, description="next_page_token of the page before")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="The ETag of an answer that one has")]
MaxResults = Annotated[int, Query(ge=1, le=200)]
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=200, description="Repeat a request without a second effect"
    ),
]


def queued(response: Response, answer: Accepted) -> Accepted:
    """The answer to a request that has queued work, with the place of the work in its headers."""
    response.headers["Location"] = answer.url
    return answer


async def in_turn(request: Request, limiter: CapacityLimiter, work: Callable[..., Done], *given: object) -> Done:
    """`work(...)` in a thread, as soon as the limiter has one. Raises Departed instead, if the client has left before
    its turn: nobody waits for the answer."""
    waits = limiter.available_tokens <= 0
    async with limiter:
        if waits and await request.is_disconnected():
            raise Departed
        return await run_sync(work, *given, limiter=CapacityLimiter(1))  # this one is held already


async def listed(
    request: Request,
    state: State,
    summaries: Summaries,
    wanted: Collection[ColumnElement[bool]],
    page_token: str | None,
    max_results: int,
) -> Response:
    """A page of a list, put together in a thread for reads."""

    def page() -> bytes:
        with state.database.read() as session:
            return summaries.page(session, wanted, page_token, max_results)

    return Response(await in_turn(request, state.reads, page), media_type=JSON_TYPE)

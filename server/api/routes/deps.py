"""Dependencies of routes: the app's state, the caller's token, the requested page."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, Header, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import ColumnElement

from server.api.lists import Lists
from server.api.metrics import Metrics
from server.api.things import JSON_TYPE, AllThings
from server.api.watch import Watch
from server.clock import Clock
from server.errors import Forbidden
from server.services import tokens
from server.services.summaries import Summaries
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database
from server.store.hints import Hints
from server.store.tables import Token
from server.wire import Role


@dataclass
class State:
    """Everything an app holds while it runs."""

    settings: Settings
    database: Database
    blobs: Blobs
    metrics: Metrics
    clock: Clock
    notifier: Hints
    things: AllThings
    lists: Lists
    watch: Watch
    reads: CapacityLimiter
    was_ready: bool = False

    @property
    def now(self) -> datetime:
        return self.clock()


async def get_state(request: Request) -> State:
    state: State = request.app.state.server
    return state


bearer = HTTPBearer(auto_error=False, description="The token in admin.token, or one made by POST /tokens")
TheState = Annotated[State, Depends(get_state)]
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


def allow(*roles: Role) -> Callable[[State, HTTPAuthorizationCredentials | None], Token]:
    """A dependency: the caller's token, if its role is one of `roles`. Raises Unauthorized, Forbidden."""

    def authorise(state: TheState, credentials: Credentials) -> Token:
        with state.database.read() as session:
            token = tokens.authenticate(session, credentials.credentials if credentials else None)
        if token.role not in roles:
            needed = " or ".join(role.value for role in roles)
            raise Forbidden(f"this needs a token of role {needed}, yours is {token.role}")
        return token

    return authorise


Reader = Annotated[Token, Depends(allow(Role.ADMIN, Role.USER, Role.VIEWER))]
UserToken = Annotated[Token, Depends(allow(Role.ADMIN, Role.USER))]
AgentToken = Annotated[Token, Depends(allow(Role.AGENT, Role.ADMIN))]
Downloader = Annotated[Token, Depends(allow(Role.ADMIN, Role.USER, Role.VIEWER, Role.AGENT))]
Admin = Annotated[Token, Depends(allow(Role.ADMIN))]

PageToken = Annotated[str | None, Query(max_length=100, description="next_page_token of the page before")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="The ETag of an answer that one has")]
MaxResults = Annotated[int, Query(ge=1, le=200)]
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=200, description="Repeat a request without a second effect"
    ),
]


async def listed(
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

    return Response(await run_sync(page, limiter=state.reads), media_type=JSON_TYPE)

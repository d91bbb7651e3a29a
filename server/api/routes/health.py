"""Whether the server is alive and ready, and its metrics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.api.routes.deps import Reader, State, TheState
from server.api.shared_call import SharedCall
from server.errors import ServerError, Unauthorized
from server.services import devices, jobs, tokens
from server.services.readiness import Check, Looker
from server.store.db import from_database_error
from server.version import VERSION
from server.wire import Health, Readiness, ReadinessCheck, Role

router = APIRouter(tags=["health"])
# Whoever asks is a program that asks again soon; a database that hangs must not hang it, too.
ANSWER_SECONDS = 4.0
READERS = (Role.ADMIN, Role.USER, Role.VIEWER)
MAY_FAIL = 2  # sweeps in a row: one is refused when many write at once
Verbose = Annotated[str | None, Query(max_length=10, description="List every check, and why it failed to who may read")]


@router.get("/healthz")
async def healthz() -> Health:
    """A coroutine, so that it answers while all threads are busy."""
    return Health(version=VERSION)


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, state: TheState, response: Response, verbose: Verbose = None) -> Readiness:
    """503 until a search can be answered; a device `host` that measures later does not change a 200 back."""
    checks = [*await _looked(state), Looker(state.settings, state.blobs, state.now, state.was_ready).disk()]
    checks.append(_sweeper(state))
    waiting_for = list(dict.fromkeys(check.name for check in checks if check.state == "failed"))
    state.was_ready = state.was_ready or not waiting_for
    response.status_code = 503 if waiting_for else 200
    listed = None
    if verbose is not None and verbose.lower() not in ("false", "0"):
        details = checks[0].name != "database" and await _may_read(request, state)
        listed = [ReadinessCheck(name=c.name, state=c.state, detail=c.detail if details else None) for c in checks]
    return Readiness(ready=not waiting_for, waiting_for=waiting_for, checks=listed)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def prometheus(state: TheState, _token: Reader) -> Response:
    with state.database.read() as session:
        by_kind = jobs.count_by_kind_and_status(session)
        by_state = devices.count_by_state(session, state.now, state.settings.offline_after)
    return Response(state.metrics.text(by_kind, by_state), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _looked(state: State) -> list[Check]:
    """The checks that need the database; one of the database itself where it does not answer."""
    looker = Looker(state.settings, state.blobs, state.now, state.was_ready)

    def look() -> list[Check]:
        with state.database.read() as session:
            return looker.checks(session)

    try:
        return await state.readiness.get(look, ANSWER_SECONDS)
    except DBAPIError as error:
        return [Check("database", "failed", from_database_error(error).detail)]
    except (TimeoutError, PoolTimeout):
        return [Check("database", "failed", f"the database did not answer within {ANSWER_SECONDS:g} s")]
    except ServerError as error:
        return [Check("database", "failed", error.detail)]


def _sweeper(state: State) -> Check:
    """Which writes to the database every few seconds, and so knows whether it can be written."""
    last = state.sweeper.last
    if state.sweeper.is_late:
        return Check("sweeper", "failed", "expired leases are not taken back: the sweep hangs")
    if last.failures >= MAY_FAIL:
        return Check("database", "failed", f"the database cannot be written: {last.why}")
    return Check("sweeper", "ok", "expired leases are taken back")


async def _may_read(request: Request, state: State) -> bool:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not tokens.SECRET.fullmatch(secret.strip()):
        return False

    def look() -> bool:
        with state.database.read() as session:
            return tokens.authenticate(session, secret.strip()).role in READERS

    try:
        return await SharedCall[bool]().get(look, ANSWER_SECONDS)
    except (Unauthorized, DBAPIError, PoolTimeout, TimeoutError, ServerError):
        return False

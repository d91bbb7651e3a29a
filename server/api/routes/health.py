"""Whether the server is alive and ready, and its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.api.routes.deps import Reader, TheState
from server.services import devices, jobs, readiness
from server.version import VERSION
from server.wire import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """A coroutine, so that it answers while all threads are busy."""
    return Health(version=VERSION)


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(state: TheState, response: Response) -> Readiness:
    """503 until a search can be answered; a device `host` that measures later does not change a 200 back."""
    with state.database.read() as session:
        waiting_for = readiness.waiting_for(
            session,
            admin_token_file=state.settings.admin_token_file,
            supernets_folder=state.settings.supernets_folder,
            expect_host=state.settings.expect_host and not state.was_ready,
            now=state.now,
            offline_after=state.settings.offline_after,
        )
    state.was_ready = state.was_ready or not waiting_for
    response.status_code = 503 if waiting_for else 200
    return Readiness(ready=not waiting_for, waiting_for=waiting_for)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def prometheus(state: TheState, _token: Reader) -> Response:
    with state.database.read() as session:
        by_kind = jobs.count_by_kind_and_status(session)
        by_state = devices.count_by_state(session, state.now, state.settings.offline_after)
    return Response(state.metrics.text(by_kind, by_state), media_type="text/plain; version=0.0.4; charset=utf-8")

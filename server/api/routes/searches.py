"""Ask for models that meet a budget, and for single sub-networks."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from server.api.routes.deps import (
    IdempotencyHeader,
    IfNoneMatch,
    MaxResults,
    PageToken,
    Reader,
    State,
    TheState,
    UserToken,
    listed,
    queued,
)
from server.api.things import NOT_MODIFIED, respond
from server.api.waits import EVENTS, WaitSeconds, events, settled
from server.services import idempotency, searches, submissions
from server.services.askers import Asker
from server.wire import Accepted, Page, SearchRequest, SearchView, SubnetRequest

router = APIRouter(tags=["search"])


@router.post("/search", status_code=202)
def search(
    body: SearchRequest, state: TheState, token: UserToken, response: Response, key: IdempotencyHeader = None
) -> Accepted:
    """Start a search. An unknown device, a device without a predictor, an infeasible budget and an unsupported field
    are refused at once. Verified searches with the same request are done together."""
    now, settings = state.now, state.settings
    use = idempotency.Use.of(key, token.id, "/search", body)
    asker = Asker.of(token, settings)
    with state.database.write() as session:
        answer = idempotency.accepted(
            session,
            use,
            now,
            lambda: searches.create(
                session, body, now, settings.max_attempts, asker, settings.supernets_folder, state.blobs
            ),
        )
    return queued(response, answer)


@router.get("/searches", response_model=Page[SearchView])
async def list_searches(
    request: Request, state: TheState, _token: Reader, page_token: PageToken = None, max_results: MaxResults = 50
) -> Response:
    return await listed(request, state, state.lists.searches, (), page_token, max_results)


@router.get("/searches/{search_id}", response_model=SearchView, responses=NOT_MODIFIED)
async def get_search(
    search_id: str, state: TheState, _token: Reader, held: IfNoneMatch = None, wait_seconds: WaitSeconds = 0.0
) -> Response:
    """With `wait_seconds`, as soon as it is finished or, with If-None-Match, as soon as it has changed."""
    things = state.things.searches
    if wait_seconds == 0.0:
        return respond(await things.answer(search_id), held)
    job_id = await run_sync(_job_of, state, search_id, limiter=state.reads)
    return respond(await settled(state.watch, things, search_id, job_id, held, wait_seconds), held)


@router.get("/searches/{search_id}/events", response_class=StreamingResponse, responses=EVENTS)
async def follow_search(search_id: str, request: Request, state: TheState, _token: Reader) -> StreamingResponse:
    """Server-sent events: `status` with the search as it is, at each change, until it is finished."""
    job_id = await run_sync(_job_of, state, search_id, limiter=state.reads)
    return events(request, state.watch, state.things.searches, search_id, job_id)


def _job_of(state: State, search_id: str) -> str:
    with state.database.read() as session:
        return searches.get(session, search_id)[1].id


@router.post("/searches/{search_id}/cancel")
def cancel_search(search_id: str, state: TheState, token: UserToken) -> SearchView:
    """End a search that is not finished, with all that it queued. Only its owner and admins may."""
    with state.database.write() as session:
        return searches.cancel(session, search_id, state.now, Asker.of(token, state.settings))


@router.post("/subnets", status_code=202)
def subnet(
    body: SubnetRequest, state: TheState, token: UserToken, response: Response, key: IdempotencyHeader = None
) -> Accepted:
    """Extract and export one architecture; the job's result names the model. For a model that was exported before, the
    job has already succeeded. An unknown architecture, and one that is not in the supernet's space, are refused at
    once."""
    now, settings = state.now, state.settings
    use = idempotency.Use.of(key, token.id, "/subnets", body)
    asker = Asker.of(token, settings)
    with state.database.write() as session:
        answer = idempotency.accepted(
            session,
            use,
            now,
            lambda: submissions.subnet(
                session, state.blobs, settings.supernets_folder, body, now, settings.max_attempts, asker
            ),
        )
    return queued(response, answer)

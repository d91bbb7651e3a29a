"""Ask for models that meet a budget, and for single sub-networks."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.api.routes.deps import IdempotencyHeader, MaxResults, PageToken, Reader, TheState, UserToken, queued
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
    return queued(state, response, answer)


@router.get("/searches")
def list_searches(
    state: TheState, _token: Reader, page_token: PageToken = None, max_results: MaxResults = 50
) -> Page[SearchView]:
    with state.database.read() as session:
        return searches.listing(session, page_token, max_results)


@router.get("/searches/{search_id}")
def get_search(search_id: str, state: TheState, _token: Reader) -> SearchView:
    with state.database.read() as session:
        return searches.view(session, *searches.get(session, search_id))


@router.post("/searches/{search_id}/cancel")
def cancel_search(search_id: str, state: TheState, token: UserToken) -> SearchView:
    """End a search that is not finished, with all that it queued. Only its owner and admins may."""
    with state.database.write() as session:
        view = searches.cancel(session, search_id, state.now, Asker.of(token, state.settings))
    state.notifier.notify()
    return view


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
    return queued(state, response, answer)

"""Jobs: create, read, cancel, try again."""

from __future__ import annotations

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
    in_turn,
    listed,
    queued,
)
from server.api.things import JSON_TYPE, NOT_MODIFIED, respond
from server.api.waits import EVENTS, WaitSeconds, events, settled
from server.services import askers, idempotency, job_ends, jobs, quick_measure, retries, submissions
from server.services.askers import Asker
from server.wire import Accepted, JobKind, JobRequest, JobStatus, JobView, Page

router = APIRouter(tags=["jobs"])


@router.post("/jobs", status_code=202, response_model=Accepted)
async def create_job(
    body: JobRequest, request: Request, state: TheState, token: UserToken, key: IdempotencyHeader = None
) -> Response:
    """Measure a model on a device, or calibrate a device's predictor. While an equal job of the same user is open, that
    one is the answer; an equal job of another user is done together with it."""
    asker, answer = Asker.of(token, state.settings), None
    if key is None and (plan := quick_measure.Plan.of(body)) is not None:
        wanted = quick_measure.Wanted(plan, state.now, state.settings.max_attempts, asker)
        answer = await state.measuring.answer(wanted, request)
    if answer is None:
        use = idempotency.Use.of(key, token.id, "/jobs", body)
        answer = await in_turn(request, state.writes, _created, state, body, use, asker)
    return Response(answer.model_dump_json(), status_code=202, headers={"Location": answer.url}, media_type=JSON_TYPE)


def _created(state: State, body: JobRequest, use: idempotency.Use, asker: Asker) -> Accepted:
    now, attempts = state.now, state.settings.max_attempts
    with state.database.write() as session:
        return idempotency.accepted(session, use, now, lambda: submissions.submit(session, body, now, attempts, asker))


@router.get("/jobs", response_model=Page[JobView])
async def list_jobs(
    request: Request,
    state: TheState,
    _token: Reader,
    page_token: PageToken = None,
    max_results: MaxResults = 50,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    device: str | None = None,
    parent_id: str | None = None,
) -> Response:
    wanted = jobs.conditions(kind=kind, status=status, device=device, parent_id=parent_id)
    return await listed(request, state, state.lists.jobs, wanted, page_token, max_results)


@router.get("/jobs/{job_id}", response_model=JobView, responses=NOT_MODIFIED)
async def get_job(
    job_id: str, state: TheState, _token: Reader, held: IfNoneMatch = None, wait_seconds: WaitSeconds = 0.0
) -> Response:
    """With `wait_seconds`, as soon as it is finished or, with If-None-Match, as soon as it has changed."""
    things = state.things.jobs
    if wait_seconds == 0.0:
        return respond(await things.answer(job_id), held)
    return respond(await settled(state.watch, things, job_id, job_id, held, wait_seconds), held)


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=EVENTS)
async def follow_job(job_id: str, request: Request, state: TheState, _token: Reader) -> StreamingResponse:
    """Server-sent events: `status` with the job as it is, at each change, until it is finished."""
    await state.things.jobs.answer(job_id)
    return events(request, state.watch, state.things.jobs, job_id, job_id)


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, state: TheState, token: UserToken) -> JobView:
    """End a job that is not finished, with all that it queued. Only its owner and admins may."""
    with state.database.write() as session:
        askers.check_may_change(Asker.of(token, state.settings), jobs.get(session, job_id))
        return jobs.view(session, job_ends.cancel(session, job_id, state.now))


@router.post("/jobs/{job_id}/retry", status_code=202)
def retry_job(
    job_id: str, state: TheState, token: UserToken, response: Response, key: IdempotencyHeader = None
) -> Accepted:
    """Do the work of a failed or cancelled job again, by a new job; for a search the answer names the new search. Only
    its owner and admins may."""
    now, attempts = state.now, state.settings.max_attempts
    use = idempotency.Use(key, token.id, f"/jobs/{job_id}/retry", "")
    asker = Asker.of(token, state.settings)
    with state.database.write() as session:
        answer = idempotency.accepted(session, use, now, lambda: retries.retry(session, job_id, now, attempts, asker))
    return queued(response, answer)

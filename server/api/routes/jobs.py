"""Jobs: create, read, cancel, try again."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.api.routes.deps import IdempotencyHeader, MaxResults, PageToken, Reader, TheState, UserToken, queued
from server.services import askers, idempotency, job_ends, jobs, retries, submissions
from server.services.askers import Asker
from server.wire import Accepted, JobKind, JobRequest, JobStatus, JobView, Page

router = APIRouter(tags=["jobs"])


@router.post("/jobs", status_code=202)
def create_job(
    body: JobRequest, state: TheState, token: UserToken, response: Response, key: IdempotencyHeader = None
) -> Accepted:
    """Measure a model on a device, or calibrate a device's predictor. While an equal job of the same user is open, that
    one is the answer; an equal job of another user is done together with it."""
    now, attempts = state.now, state.settings.max_attempts
    use = idempotency.Use.of(key, token.id, "/jobs", body)
    asker = Asker.of(token, state.settings)
    with state.database.write() as session:
        answer = idempotency.accepted(
            session, use, now, lambda: submissions.submit(session, body, now, attempts, asker)
        )
    return queued(state, response, answer)


@router.get("/jobs")
def list_jobs(
    state: TheState,
    _token: Reader,
    page_token: PageToken = None,
    max_results: MaxResults = 50,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    device: str | None = None,
    parent_id: str | None = None,
) -> Page[JobView]:
    with state.database.read() as session:
        return jobs.listing(
            session, page_token, max_results, kind=kind, status=status, device=device, parent_id=parent_id
        )


@router.get("/jobs/{job_id}")
def get_job(job_id: str, state: TheState, _token: Reader) -> JobView:
    with state.database.read() as session:
        return jobs.view(session, jobs.get(session, job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, state: TheState, token: UserToken) -> JobView:
    """End a job that is not finished, with all that it queued. Only its owner and admins may."""
    with state.database.write() as session:
        askers.check_may_change(Asker.of(token, state.settings), jobs.get(session, job_id))
        view = jobs.view(session, job_ends.cancel(session, job_id, state.now))
    state.notifier.notify()
    return view


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
    return queued(state, response, answer)

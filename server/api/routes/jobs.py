"""Jobs: create, read, cancel."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.api.routes.deps import MaxResults, PageToken, Reader, TheState, UserToken
from server.services import job_ends, jobs, submissions
from server.wire import Accepted, JobKind, JobRequest, JobStatus, JobView, Page

router = APIRouter(tags=["jobs"])


@router.post("/jobs", status_code=202)
def create_job(body: JobRequest, state: TheState, _token: UserToken, response: Response) -> Accepted:
    """Measure a model on a device, or calibrate a device's predictor."""
    with state.database.write() as session:
        answer = submissions.submit(session, body, state.now, state.settings.max_attempts)
    state.notifier.notify()
    response.headers["Location"] = answer.url
    return answer


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
        return jobs.view(jobs.get(session, job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, state: TheState, _token: UserToken) -> JobView:
    with state.database.write() as session:
        return jobs.view(job_ends.cancel(session, job_id, state.now))

"""Searches: a request is checked, then queued as a job for a compute worker (`server.compute.jobs.search`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from server.errors import BadValue, Infeasible, NoPredictor, NotFound
from server.ids import new_id
from server.services import askers, devices, job_ends, jobs, predictors, spaces, submissions, supernets
from server.services.askers import Asker
from server.store.blobs import Blobs
from server.store.tables import Job, Search, Supernet
from server.wire import (
    Accepted,
    JobKind,
    JobStatus,
    Progress,
    SearchRequest,
    SearchResult,
    SearchView,
    Target,
)

PRIORITY = 10  # above calibrations: a user waits for the answer


def create(
    session: Session,
    request: SearchRequest,
    now: datetime,
    max_attempts: int,
    asker: Asker,
    folder: Path,
    blobs: Blobs | None = None,
) -> Accepted:
    """Queue a search; the job's payload is `{search_id, request, supernet, predictor_id}`. A verified search occupies
    its device, so an open one with the same request is joined. `folder` holds the supernets.

    Raises BadValue, NotFound, NoPredictor, Infeasible, Conflict, TooMany.
    """
    check_supported(request)
    target = request.targets[0]
    device = devices.get(session, target.device)
    supernet = supernets.resolve(session, request.supernet)
    predictor = predictors.newest(session, device.profile_id, supernet.name)
    if predictor is not None and predictors.newest(session, device.profile_id, supernet.name, blobs) is None:
        predictor = None  # the files of all versions are gone or damaged
    if predictor is None and not request.allow_uncalibrated:
        raise NoPredictor(
            f"there is no latency predictor for '{device.name}' and supernet '{supernet.name}' yet: keep it idle "
            f'and POST /jobs {{"kind": "calibrate", "device": "{device.name}", "supernet": "{supernet.name}"}}, '
            'or set "allow_uncalibrated": true '
            "for an estimate without a confidence"
        )
    if predictor is not None:
        smallest_ms = predictors.smallest_upper_ms(session, predictor, supernet, request.confidence, request.statistic)
        check_feasible(target, smallest_ms)
    check_size(request, supernet, folder)
    content = {
        "request": request.model_dump(mode="json"),
        "supernet": supernet.name,
        "predictor_id": predictor.id if predictor else None,
    }
    return queue(session, content, device.name, now, max_attempts, asker)


def queue(
    session: Session,
    content: Mapping[str, Any],
    device: str,
    now: datetime,
    max_attempts: int,
    asker: Asker,
    retry_of: str | None = None,
) -> Accepted:
    """Queue a search job with this payload but for its `search_id`. Raises TooMany."""
    search_id = new_id("search", now)
    payload = {"search_id": search_id, **content}
    if content["request"].get("verify"):
        work = submissions.DeviceWork(JobKind.SEARCH, device, content, priority=PRIORITY, payload=payload)
        job = submissions.queue_or_join(session, work, now, max_attempts, asker, retry_of)
    else:
        askers.check_room(session, asker)
        job = jobs.enqueue(
            session,
            kind=JobKind.SEARCH,
            now=now,
            payload=payload,
            device=device,
            priority=PRIORITY,
            max_attempts=max_attempts,
            owner=asker.owner,
            retry_of=retry_of,
        )
    search_id = job.payload["search_id"]  # another one where an open job was joined
    if session.get(Search, search_id) is None:
        session.add(Search(id=search_id, job_id=job.id, request=content["request"], created_at=now))
        session.flush()
    return Accepted(id=search_id, status=JobStatus(job.status), url=url(search_id))


def check_supported(request: SearchRequest) -> None:
    """Refuse fields of the API that are not implemented, before anything is queued. Raises BadValue."""
    if len(request.targets) > 1:
        raise BadValue("a fleet of more than one device is not supported yet: search for each device separately")
    if request.max_peak_memory_mb is not None:
        raise BadValue('"max_peak_memory_mb" is not supported yet: bound the size of the file by "max_size_mb" instead')


def check_feasible(target: Target, smallest_ms: float | None) -> None:
    """Raises Infeasible when the budget is below the least upper bound that can be reached."""
    if smallest_ms is not None and target.budget.latency_ms < smallest_ms:
        raise Infeasible(
            f"no model reaches {target.budget.latency_ms:g} ms on '{target.device}' with this confidence: "
            f"the smallest is bounded by {smallest_ms:.3f} ms; ask for more",
            smallest_ms=smallest_ms,
            binding="latency_ms",
            device=target.device,
        )


def check_size(request: SearchRequest, supernet: Supernet, folder: Path) -> None:
    """Raises Infeasible when no network of the supernet's space is as small as asked for. Bounds that are only together
    too tight are found by the job."""
    bounds = {"max_macs": request.max_macs, "max_size_mb": request.max_size_mb}
    if all(bound is None for bound in bounds.values()) or (space := spaces.of(supernet, folder)) is None:
        return
    least = spaces.smallest(space)
    for (binding, bound), smallest in zip(bounds.items(), (least.macs, least.size_mb), strict=True):
        if bound is not None and bound < smallest:
            raise Infeasible(
                f"no network of supernet '{supernet.name}' keeps \"{binding}\" {bound:g}: the smallest has "
                f"{math.ceil(smallest) if binding == 'max_macs' else round(smallest, 3)}; ask for more",
                smallest_ms=None,
                binding=binding,
                smallest=smallest,
            )


def get(session: Session, search_id: str) -> tuple[Search, Job]:
    """Raises NotFound."""
    search = session.get(Search, search_id)
    if search is None:
        raise NotFound(f"there is no search '{search_id}': GET /searches lists them")
    return search, jobs.get(session, search.job_id)


def cancel(session: Session, search_id: str, now: datetime, asker: Asker) -> SearchView:
    """Cancel the search and the jobs that it queued. Raises NotFound, Forbidden, Finished."""
    search, job = get(session, search_id)
    askers.check_may_change(asker, job)
    return view(session, search, job_ends.cancel(session, job.id, now))


def summaries(session: Session, search_ids: Sequence[str]) -> dict[str, SearchView]:
    """Searches as lists show them, by id."""
    both = select(Search, Job).join(Job, col(Job.id) == Search.job_id).where(col(Search.id).in_(search_ids))
    found = session.exec(both.options(*jobs.SUMMARY))
    return {search.id: view(session, search, job, whole=False) for search, job in found}


def view(session: Session, search: Search, job: Job, *, whole: bool = True) -> SearchView:
    """With `whole` false as lists show it: without its result."""
    result = job.result if whole else None
    return SearchView(
        id=search.id,
        status=JobStatus(job.status),
        progress=Progress.model_validate(job.progress) if job.progress else None,
        error=jobs.error(job),
        result=SearchResult.model_validate(result) if result else None,
        request=SearchRequest.model_validate(search.request),
        url=url(search.id),
        created_at=search.created_at,
        finished_at=job.finished_at,
        job_id=job.id,
        owner=jobs.owner_name(session, job),
    )


def url(search_id: str) -> str:
    return f"/searches/{search_id}"

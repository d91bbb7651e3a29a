"""Measurements."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.api.routes.deps import IfNoneMatch, MaxResults, PageToken, Reader, TheState, listed
from server.api.things import NOT_MODIFIED, respond
from server.services import measurements
from server.wire import MeasurementDetail, MeasurementView, Page

router = APIRouter(tags=["measurements"])


@router.get("/measurements", response_model=Page[MeasurementView])
async def list_measurements(
    request: Request,
    state: TheState,
    _token: Reader,
    page_token: PageToken = None,
    max_results: MaxResults = 50,
    model_id: str | None = None,
    device: str | None = None,
    profile_id: str | None = None,
) -> Response:
    wanted = measurements.conditions(model_id=model_id, device=device, profile_id=profile_id)
    return await listed(request, state, state.lists.measurements, wanted, page_token, max_results)


@router.get("/measurements/{measurement_id}", response_model=MeasurementDetail, responses=NOT_MODIFIED)
async def get_measurement(measurement_id: str, state: TheState, _token: Reader, held: IfNoneMatch = None) -> Response:
    """With all raw samples."""
    return respond(await state.things.measurements.answer(measurement_id), held)

"""Measurements."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.routes.deps import MaxResults, PageToken, Reader, TheState
from server.services import measurements
from server.wire import MeasurementDetail, MeasurementView, Page

router = APIRouter(tags=["measurements"])


@router.get("/measurements")
def list_measurements(
    state: TheState,
    _token: Reader,
    page_token: PageToken = None,
    max_results: MaxResults = 50,
    model_id: str | None = None,
    device: str | None = None,
    profile_id: str | None = None,
) -> Page[MeasurementView]:
    with state.database.read() as session:
        return measurements.listing(
            session, page_token, max_results, model_id=model_id, device=device, profile_id=profile_id
        )


@router.get("/measurements/{measurement_id}")
def get_measurement(measurement_id: str, state: TheState, _token: Reader) -> MeasurementDetail:
    """With all raw samples."""
    with state.database.read() as session:
        return measurements.detail(session, measurements.get(session, measurement_id))

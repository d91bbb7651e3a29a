"""Devices, device profiles and latency predictors."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.routes.deps import Admin, MaxResults, PageToken, Reader, TheState
from server.services import device_binding, devices, predictors
from server.store.hints import AGENTS, hint
from server.wire import DeviceRebind, DeviceView, Page, PredictorView, ProfileView

router = APIRouter(tags=["devices"])


@router.get("/devices")
def list_devices(
    state: TheState, _token: Reader, page_token: PageToken = None, max_results: MaxResults = 50
) -> Page[DeviceView]:
    with state.database.read() as session:
        return devices.listing(session, page_token, max_results, state.now, state.settings.offline_after)


@router.get("/devices/{name}")
def get_device(name: str, state: TheState, _token: Reader) -> DeviceView:
    with state.database.read() as session:
        return devices.view(session, devices.get(session, name), state.now, state.settings.offline_after)


@router.post("/devices/{name}/rebind")
def rebind_device(name: str, body: DeviceRebind, state: TheState, _token: Admin) -> DeviceView:
    """Let the agent of another token have the device; see `GET /tokens` for the ids. Its leases are taken back."""
    with state.database.write() as session:
        device = device_binding.rebind(session, name, body.token_id, state.now)
        hint(session, AGENTS)
        return devices.view(session, device, state.now, state.settings.offline_after)


@router.get("/profiles")
def list_profiles(
    state: TheState, _token: Reader, page_token: PageToken = None, max_results: MaxResults = 50
) -> Page[ProfileView]:
    with state.database.read() as session:
        return devices.profiles(session, page_token, max_results)


@router.get("/profiles/{profile_id}")
def get_profile(profile_id: str, state: TheState, _token: Reader) -> ProfileView:
    with state.database.read() as session:
        return devices.profile_view(session, devices.get_profile(session, profile_id))


@router.get("/predictors")
def list_predictors(
    state: TheState,
    _token: Reader,
    page_token: PageToken = None,
    max_results: MaxResults = 50,
    device: str | None = None,
) -> Page[PredictorView]:
    with state.database.read() as session:
        return predictors.listing(session, page_token, max_results, device)


@router.get("/predictors/{predictor_id}")
def get_predictor(predictor_id: str, state: TheState, _token: Reader) -> PredictorView:
    with state.database.read() as session:
        return predictors.view(predictors.get(session, predictor_id))

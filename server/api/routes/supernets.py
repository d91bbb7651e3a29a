"""Supernets: list, add, show."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from server.api.routes.deps import Admin, MaxResults, PageToken, Reader, TheState
from server.services import supernet_files, supernets
from server.wire import Page, SupernetAdd, SupernetView

router = APIRouter(tags=["supernets"])


@router.get("/supernets")
def list_supernets(
    state: TheState, _token: Reader, page_token: PageToken = None, max_results: MaxResults = 50
) -> Page[SupernetView]:
    with state.database.read() as session:
        return supernets.listing(session, page_token, max_results)


@router.post("/supernets", status_code=201)
def add_supernet(body: SupernetAdd, state: TheState, _token: Admin, response: Response) -> SupernetView:
    """Serve a supernet file of the server's machine, for example a fine-tuned or imported one."""
    row = supernet_files.add(state.database, Path(body.path), body.name, state.settings.supernets_folder, state.now)
    response.headers["Location"] = f"/supernets/{row.name}"
    return supernets.view(row)


@router.get("/supernets/{name}")
def get_supernet(name: str, state: TheState, _token: Reader) -> SupernetView:
    with state.database.read() as session:
        return supernets.view(supernets.get(session, name))

"""Supernets: list, add, show."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from server.api.routes.deps import Admin, IdempotencyHeader, MaxResults, PageToken, Reader, TheState
from server.services import idempotency, supernet_files, supernets
from server.wire import Page, SupernetAdd, SupernetView

router = APIRouter(tags=["supernets"])


@router.get("/supernets")
def list_supernets(
    state: TheState, _token: Reader, page_token: PageToken = None, max_results: MaxResults = 50
) -> Page[SupernetView]:
    with state.database.read() as session:
        return supernets.listing(session, page_token, max_results)


@router.post("/supernets", status_code=201)
def add_supernet(
    body: SupernetAdd, state: TheState, token: Admin, response: Response, key: IdempotencyHeader = None
) -> SupernetView:
    """Serve a supernet file of the server's machine, for example a fine-tuned or imported one."""
    now = state.now
    use = idempotency.Use.of(key, token.id, "/supernets", body)
    with state.database.read() as session:
        known = idempotency.find(session, use)
    if known is None:
        # Adding the same file twice changes nothing, so two requests at once do no harm.
        row = supernet_files.add(state.database, Path(body.path), body.name, state.settings.supernets_folder, now)
        with state.database.write() as session:
            known = idempotency.once(session, use, now, lambda: {"name": row.name})
    response.headers["Location"] = f"/supernets/{known['name']}"
    with state.database.read() as session:
        return supernets.view(supernets.get(session, str(known["name"])))


@router.get("/supernets/{name}")
def get_supernet(name: str, state: TheState, _token: Reader) -> SupernetView:
    with state.database.read() as session:
        return supernets.view(supernets.get(session, name))

"""Tokens, for admins."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.routes.deps import Admin, MaxResults, PageToken, TheState
from server.services import tokens
from server.wire import Page, TokenCreate, TokenCreated, TokenView

router = APIRouter(tags=["tokens"])


@router.post("/tokens", status_code=201)
def create_token(body: TokenCreate, state: TheState, _token: Admin) -> TokenCreated:
    """The answer is the only place that ever shows the secret."""
    with state.database.write() as session:
        return tokens.create(session, body.name, body.role, state.now)


@router.get("/tokens")
def list_tokens(
    state: TheState, _token: Admin, page_token: PageToken = None, max_results: MaxResults = 50
) -> Page[TokenView]:
    with state.database.read() as session:
        return tokens.listing(session, page_token, max_results)


@router.delete("/tokens/{token_id}")
def revoke_token(token_id: str, state: TheState, _token: Admin) -> TokenView:
    with state.database.write() as session:
        revoked = tokens.revoke(session, token_id, state.now)
    state.tokens.forget()
    return revoked

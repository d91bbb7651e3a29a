"""Tokens, for admins."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.routes.deps import Admin, IdempotencyHeader, MaxResults, PageToken, TheState
from server.services import idempotency, tokens
from server.wire import Page, TokenCreate, TokenCreated, TokenView

router = APIRouter(tags=["tokens"])


@router.post("/tokens", status_code=201)
def create_token(body: TokenCreate, state: TheState, token: Admin, key: IdempotencyHeader = None) -> TokenCreated:
    """The answer is the only place that ever shows the secret. It cannot be shown again: a repeated Idempotency-Key is
    refused with 409, which names the token that it made."""
    now = state.now
    use = idempotency.Use.of(key, token.id, "/tokens", body)
    with state.database.write() as session:
        idempotency.check_unused(session, use)
        created = tokens.create(session, body.name, body.role, now)
        idempotency.store(session, use, {"id": created.id}, now)
        return created


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

"""Idempotency-Key: the first answer to a key is stored, and returned to the same body from the same token."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session

from server.errors import KeyReused
from server.services.storable import digest
from server.store.tables import IdempotencyKey
from server.wire import Accepted, Request


def once(
    session: Session,
    key: str | None,
    token_id: str,
    path: str,
    body: Request,
    now: datetime,
    make: Callable[[], Accepted],
) -> Accepted:
    """`make()`, or its first answer. Raises KeyReused when the body differs."""
    if key is None:
        return make()
    fingerprint = digest(body.model_dump())
    known = session.get(IdempotencyKey, (token_id, path, key))
    if known is not None:
        if known.body_sha256 != fingerprint:
            raise KeyReused("this Idempotency-Key was used with another body: choose a new key for a new request")
        return Accepted.model_validate(known.answer)
    answer = make()
    session.add(
        IdempotencyKey(
            token_id=token_id,
            path=path,
            key=key,
            body_sha256=fingerprint,
            answer=answer.model_dump(mode="json"),
            created_at=now,
        )
    )
    session.flush()
    return answer

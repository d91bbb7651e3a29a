"""Idempotency-Key: the first answer to a key is stored, and returned to the same body from the same token.

Keys are kept for `KEPT_DAYS` days, and of one token the newest `MAX_KEYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, func, select

from server.errors import Conflict, KeyReused
from server.services.alone import alone
from server.services.storable import digest
from server.store.tables import IdempotencyKey
from server.wire import Accepted, Request

KEPT_DAYS = 7
MAX_KEYS = 10_000


@dataclass(frozen=True)
class Use:
    """One use of a key: by whom, where, and the hash of the body. Without a `key` nothing is stored."""

    key: str | None
    token_id: str
    path: str
    body_sha256: str

    @classmethod
    def of(cls, key: str | None, token_id: str, path: str, body: Request) -> Use:
        """Raises BadValue for a body that is not plain JSON."""
        return cls(key, token_id, path, digest(body.model_dump()) if key is not None else "")


def once(session: Session, use: Use, now: datetime, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """`make()`, or its first answer, which is plain JSON. Raises KeyReused when the body differs."""
    answer = find(session, use)
    if answer is None:
        answer = dict(make())
        store(session, use, answer, now)
    return answer


def accepted(session: Session, use: Use, now: datetime, make: Callable[[], Accepted]) -> Accepted:
    """The same for work that is queued."""
    return Accepted.model_validate(once(session, use, now, lambda: make().model_dump(mode="json")))


def find(session: Session, use: Use) -> dict[str, Any] | None:
    """The first answer to this key; None without one. No other transaction uses the key until this one ends.

    Raises KeyReused when the body differs.
    """
    if use.key is None:
        return None
    alone(session, f"key:{use.token_id}:{use.path}:{use.key}")
    known = session.get(IdempotencyKey, (use.token_id, use.path, use.key))
    if known is None:
        return None
    if known.body_sha256 != use.body_sha256:
        raise KeyReused("this Idempotency-Key was used with another body: choose a new key for a new request")
    return known.answer


def check_unused(session: Session, use: Use) -> None:
    """For answers that are not stored, because they hold a secret. Raises Conflict for a key that was used before, and
    KeyReused when the body differs."""
    if (answer := find(session, use)) is not None:
        raise Conflict(
            f"this Idempotency-Key made '{answer['id']}' already, whose secret is shown only once: revoke that one and "
            "use a new key if the answer was lost"
        )


def store(session: Session, use: Use, answer: Mapping[str, Any], now: datetime) -> None:
    """Keep the first answer to a key."""
    if use.key is None:
        return
    row = IdempotencyKey(
        token_id=use.token_id,
        path=use.path,
        key=use.key,
        body_sha256=use.body_sha256,
        answer=dict(answer),
        created_at=now,
    )
    session.add(row)
    session.flush()


def sweep(session: Session, now: datetime) -> int:
    """Delete keys that are too old or too many; returns how many."""
    oldest = session.exec(select(func.min(IdempotencyKey.created_at))).one()
    if oldest is None:
        return 0
    deleted = _delete_before(session, now - timedelta(days=KEPT_DAYS))
    counts = select(IdempotencyKey.token_id, func.count()).group_by(col(IdempotencyKey.token_id))
    for token_id, _ in session.exec(counts.having(func.count() > MAX_KEYS)).all():
        newest = select(IdempotencyKey.created_at).where(IdempotencyKey.token_id == token_id)
        newest = newest.order_by(col(IdempotencyKey.created_at).desc()).offset(MAX_KEYS - 1).limit(1)
        deleted += _delete_before(session, session.exec(newest).one(), token_id)
    return deleted


def _delete_before(session: Session, before: datetime, token_id: str | None = None) -> int:
    old = delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < before)
    if token_id is not None:
        old = old.where(col(IdempotencyKey.token_id) == token_id)
    result = session.execute(old)
    return int(getattr(result, "rowcount", 0))

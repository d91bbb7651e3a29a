"""One transaction at a time for what has no row yet that could be locked."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import text
from sqlmodel import Session

# The names are sorted by the inner query, and locked in that order.
LOCK = text(
    "SELECT pg_advisory_xact_lock(key) FROM "
    "(SELECT hashtextextended(name, 0) AS key FROM unnest(CAST(:names AS text[])) AS name ORDER BY key) AS sorted"
)


def alone(session: Session, name: str) -> None:
    """Wait until no other transaction is alone under this name, and stay so until this one ends; SQLite has one writer
    at a time anyway."""
    all_alone(session, [name])


def all_alone(session: Session, names: Iterable[str]) -> None:
    """The same under several names at once, in the order of their hashes, so that no two transactions wait
    for each other."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection().execute(LOCK, {"names": list(names)})

"""One transaction at a time for what has no row yet that could be locked."""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session


def alone(session: Session, name: str) -> None:
    """Wait until no other transaction is alone under this name, and stay so until this one ends; SQLite has one writer
    at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})

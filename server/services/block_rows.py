"""Block times of measured sessions: made once from a session's operator profile, then read at every fit.

A session whose profile does not align with its model's file has no rows. The reason is kept, so that calibrations skip
the session without another export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby

from sqlmodel import Session, col, delete, select

from server.errors import NotFound
from server.store.tables import BlockRow, Measurement, UnalignedSession


def stored(session: Session, profile_id: str) -> Mapping[str, Sequence[BlockRow]]:
    """The rows of a device profile by measurement id, each session's in network order."""
    statement = select(BlockRow).where(BlockRow.profile_id == profile_id)
    rows = session.exec(statement.order_by(col(BlockRow.measurement_id), col(BlockRow.position))).all()
    return {key: list(group) for key, group in groupby(rows, key=lambda row: row.measurement_id)}


def store(session: Session, measurement_id: str, blocks: Sequence[tuple[str, str, float]]) -> None:
    """Keep the block times of a session, (kind, block key, latency_ms) in network order; replaces earlier ones.

    Raises NotFound.
    """
    measurement = _locked(session, measurement_id)
    session.exec(delete(UnalignedSession).where(col(UnalignedSession.measurement_id) == measurement_id))
    session.exec(delete(BlockRow).where(col(BlockRow.measurement_id) == measurement_id))
    for position, (kind, block, latency_ms) in enumerate(blocks):
        session.add(
            BlockRow(
                measurement_id=measurement_id,
                position=position,
                profile_id=measurement.profile_id,
                kind=kind,
                block=block,
                latency_ms=latency_ms,
            )
        )
    session.flush()


def unaligned(session: Session, profile_id: str, version: str) -> Mapping[str, str]:
    """Why sessions of a device profile could not be aligned by this version of the server, by measurement id."""
    statement = (
        select(UnalignedSession)
        .join(Measurement, col(Measurement.id) == UnalignedSession.measurement_id)
        .where(Measurement.profile_id == profile_id, UnalignedSession.version == version)
    )
    return {row.measurement_id: row.reason for row in session.exec(statement)}


def store_unaligned(session: Session, measurement_id: str, reason: str, version: str, now: datetime) -> None:
    """Keep why a session cannot be aligned; its earlier rows go. Raises NotFound."""
    _locked(session, measurement_id)
    session.exec(delete(BlockRow).where(col(BlockRow.measurement_id) == measurement_id))
    session.merge(UnalignedSession(measurement_id=measurement_id, reason=reason, version=version, created_at=now))
    session.flush()


def _locked(session: Session, measurement_id: str) -> Measurement:
    """Two calibrations may align the same session at once."""
    measurement = session.get(Measurement, measurement_id, with_for_update=True)
    if measurement is None:
        raise NotFound(f"there is no measurement '{measurement_id}': GET /measurements lists them")
    return measurement

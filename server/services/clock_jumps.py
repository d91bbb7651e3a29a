"""The computer's clock is set, or the computer sleeps: what is stored as a time must not pass, or move away, by it.

A jump forwards is seen by the sweep, whose monotonic clock does not jump: leases and deadlines move with it. A jump
backwards leaves times that lie further ahead than any is ever set: they are brought back to where a new one would be.
Both may be done by several processes: the second finds the times limited by the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from server.services import jobs
from server.services.job_ends import MAX_DELAY_SECONDS
from server.settings import Settings
from server.store.tables import Job
from server.wire import JobKind

JUMP_SECONDS = 30.0
"""Less than that passes unseen; a sweep that had to wait for its turn is no jump either."""
SLACK_SECONDS = 30.0
"""How far the clocks of two machines may be apart."""


class Jumps:
    """How far the clock was set forwards between two looks; of one thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last: tuple[datetime, float] | None = None

    def since_last(self, now: datetime) -> timedelta:
        """Zero where the clock went on as usual, and for a jump backwards."""
        at_s, last = self._monotonic(), self._last
        self._last = now, at_s
        if last is None:
            return timedelta(0)
        jump = now - last[0] - timedelta(seconds=at_s - last[1])
        return jump if jump > timedelta(seconds=JUMP_SECONDS) else timedelta(0)


@dataclass(frozen=True)
class Longest:
    """How far ahead times are set at most."""

    lease_seconds: float
    search_wait_seconds: float
    calibration_wait_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> Longest:
        return cls(settings.lease_seconds, settings.search_wait_seconds, settings.calibration_wait_seconds)


def settle(session: Session, now: datetime, jump: timedelta, longest: Longest) -> int:
    """Move the times of open jobs by a jump forwards, then limit them; returns how many jobs were changed."""
    timed = (Job.lease_expires_at, Job.wait_until, Job.not_before)
    rows = session.exec(
        select(Job.id, Job.kind, *timed)  # type: ignore[call-overload]
        .where(col(Job.status).in_(jobs.OPEN), or_(*(col(column).is_not(None) for column in timed)))
        .order_by(col(Job.id))
    ).all()
    return sum(_settle(session, now, jump, longest, *row) for row in rows)


def _settle(
    session: Session,
    now: datetime,
    jump: timedelta,
    longest: Longest,
    job_id: str,
    kind: str,
    lease_expires_at: datetime | None,
    wait_until: datetime | None,
    not_before: datetime | None,
) -> bool:
    wait_seconds = longest.search_wait_seconds if kind == JobKind.SEARCH else longest.calibration_wait_seconds
    change: dict[str, Any] = {
        "lease_expires_at": _settled(lease_expires_at, now, jump, longest.lease_seconds),
        "wait_until": _settled(wait_until, now, jump, wait_seconds),
        "not_before": _settled(not_before, now, timedelta(0), MAX_DELAY_SECONDS),
    }
    held = {"lease_expires_at": lease_expires_at, "wait_until": wait_until, "not_before": not_before}
    if change == held:
        return False
    same = [col(getattr(Job, name)) == value for name, value in held.items() if value is not None]
    statement = update(Job).where(col(Job.id) == job_id, col(Job.status).in_(jobs.OPEN), *same).values(change)
    return jobs.changed(session, statement)


def _settled(at: datetime | None, now: datetime, jump: timedelta, most_seconds: float) -> datetime | None:
    if at is None:
        return None
    if at + jump > now + timedelta(seconds=most_seconds + SLACK_SECONDS):
        return now + timedelta(seconds=most_seconds)
    return at + jump

"""Which servers and workers are alive: each marks its row every few seconds, whatever machine it runs on."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import delete
from sqlmodel import Session, col, select

from server.store.tables import Presence

FORGET_AFTER = timedelta(hours=1)
Kind = Literal["server", "worker"]


@dataclass(frozen=True)
class Member:
    """This process, under an id of its own."""

    id: str
    kind: Kind

    @classmethod
    def of_this_process(cls, kind: Kind) -> Member:
        return cls(f"{kind}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", kind)


def mark(session: Session, member: Member, now: datetime) -> None:
    """It is alive now."""
    row = session.get(Presence, member.id) or Presence(id=member.id, kind=member.kind, started_at=now, seen_at=now)
    row.seen_at = now
    session.add(row)


def forget(session: Session, kind: Kind, now: datetime) -> None:
    """Drop the rows of those that ended long ago, but the last: there was one, and now there is none."""
    last = session.exec(
        select(Presence.id).where(Presence.kind == kind).order_by(col(Presence.seen_at).desc()).limit(1)
    ).first()
    long_ago = col(Presence.seen_at) < now - FORGET_AFTER
    session.execute(delete(Presence).where(col(Presence.kind) == kind, long_ago, col(Presence.id) != last))


def seen(session: Session, kind: Kind, now: datetime, within: timedelta) -> tuple[int, int]:
    """How many are alive, of how many known. One from the future counts as gone: the clock was set, and it has not
    been seen since."""
    times = session.exec(select(Presence.seen_at).where(Presence.kind == kind)).all()
    return sum(abs(now - at) <= within for at in times), len(times)

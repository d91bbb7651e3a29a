"""Who asks for work: what they may ask for, and whose jobs they may end. Admins and the service have no limits."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Session, col, func, select

from server.errors import BadValue, Forbidden, TooMany
from server.services.jobs import OPEN
from server.settings import Settings
from server.store.tables import Job, Token
from server.wire import MeasureProtocol, Role


@dataclass(frozen=True)
class Asker:
    """The owner of new jobs, None for the service itself, with the limits of a user; None where there is none."""

    owner: str | None = None
    max_open_jobs: int | None = None
    max_session_seconds: float | None = None
    may_change_all: bool = True

    @classmethod
    def of(cls, token: Token, settings: Settings) -> Asker:
        if token.role == Role.ADMIN:
            return cls(token.id)
        return cls(token.id, settings.max_open_jobs, settings.max_session_seconds, may_change_all=False)


SERVICE = Asker()


def check_room(session: Session, asker: Asker) -> None:
    """Raises TooMany for an owner with as many open jobs as allowed."""
    if asker.max_open_jobs is not None:
        check_count(asker, open_jobs(session, asker))


def open_jobs(session: Session, asker: Asker) -> int:
    """How many jobs of this owner are not finished; jobs that other jobs queued do not count."""
    mine = (Job.owner == asker.owner, col(Job.status).in_(OPEN), col(Job.parent_id).is_(None))
    return session.exec(select(func.count()).select_from(Job).where(*mine)).one()


def check_count(asker: Asker, count: int) -> None:
    """Raises TooMany if an owner with `count` open jobs may have no further one."""
    if asker.max_open_jobs is not None and count >= asker.max_open_jobs:
        raise TooMany(
            f"{count} of your jobs are not finished, and a user may have {asker.max_open_jobs}: wait for some of them, "
            "or cancel some (GET /jobs, POST /jobs/{id}/cancel)"
        )


def check_session(asker: Asker, protocol: MeasureProtocol) -> None:
    """Raises BadValue for a measuring session that may take longer than allowed."""
    longest_seconds = 2 * protocol.rounds * protocol.max_secs
    if asker.max_session_seconds is not None and longest_seconds > asker.max_session_seconds:
        raise BadValue(
            f"this session may take {longest_seconds:g} s (2 × rounds × max_secs), and a user's at most "
            f"{asker.max_session_seconds:g} s: lower rounds or max_secs"
        )


def check_may_change(asker: Asker, job: Job) -> None:
    """Raises Forbidden for another owner's job."""
    if not asker.may_change_all and job.owner != asker.owner:
        raise Forbidden(f"job '{job.id}' belongs to somebody else: its owner or an admin may cancel or repeat it")

"""What a process looks at now and then for all who wait in it, in case a hint was lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy
from sqlmodel import Session, col, select

from server.store.tables import Job
from server.wire import JobKind, JobStatus

MAX_IDS = 500  # parameters of one query


def devices_with_jobs(session: Session, names: Collection[str]) -> list[str]:
    """Those of the devices for which a measuring job is queued; it may have to wait for something else."""
    queued = (Job.status == JobStatus.QUEUED.value, Job.kind == JobKind.MEASURE.value)
    found = session.exec(select(Job.device).where(*queued).distinct())
    return [name for name in found if name is not None and name in names]


def job_states(session: Session, job_ids: Sequence[str]) -> dict[str, Any]:
    """What shows that a job changed, by its id."""
    columns = [col(column) for column in (Job.id, Job.status, Job.attempts, Job.progress, Job.finished_at)]
    states: dict[str, Any] = {}
    for at in range(0, len(job_ids), MAX_IDS):
        rows = session.execute(sqlalchemy.select(*columns).where(columns[0].in_(job_ids[at : at + MAX_IDS])))
        states |= {row[0]: tuple(row[1:]) for row in rows}
    return states

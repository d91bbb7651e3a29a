"""The lists that grow with use: jobs, searches, models and measurements, as pages of JSON."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Table
from sqlmodel import SQLModel

from server.services import jobs, measurements, models, searches
from server.services.summaries import Summaries
from server.store.tables import Job, Measurement, Model, Search

LIST_BYTES = 8_000_000  # of kept summaries, for each list


@dataclass(frozen=True)
class Lists:
    """The lists of one app."""

    jobs: Summaries
    searches: Summaries
    models: Summaries
    measurements: Summaries


def all_lists() -> Lists:
    """Nothing is read before the first page is asked for."""
    job, search, model = _table(Job), _table(Search), _table(Model)
    measurement = _table(Measurement)
    job_columns = _short(job, ("result", "payload", "checkpoint"))
    searched = search.join(job, job.c.id == search.c.job_id)
    model_columns = _short(model, ("arch", "manifest"))
    return Lists(
        jobs=Summaries(job_columns, job, jobs.summaries, LIST_BYTES),
        searches=Summaries([*_short(search), *job_columns], searched, searches.summaries, LIST_BYTES),
        models=Summaries(model_columns, model, models.summaries, LIST_BYTES),
        measurements=Summaries(_short(measurement, ("session",)), measurement, measurements.summaries, LIST_BYTES),
    )


def _short(table: Table, without: Collection[str] = ()) -> list[object]:
    return [column for column in table.columns if column.name not in without]


def _table(model: type[SQLModel]) -> Table:
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table

"""Answers for one thing: made once for each state of its row, sent with an ETag, and not sent again to who has it.

On SQLite the row's digest is read in the event loop: it takes microseconds and waits for no writer. What was never
asked for in this state is made in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import anyio
from anyio.to_thread import run_sync
from pydantic import BaseModel
from sqlmodel import Session
from starlette.responses import Response

from server.api.answer_cache import Answer, AnswerCache
from server.services import jobs, measurements, models, searches
from server.store.db import Database
from server.store.raw_rows import Connections, RawRows
from server.store.tables import Job, Measurement, Model, Search
from server.wire import JobStatus

CACHE_BYTES = 32_000_000
JSON_TYPE = "application/json"
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Not changed since the ETag that was sent"}}
View = Callable[[Session, str], BaseModel]


class Things:
    """One kind of things of a database."""

    def __init__(
        self, database: Database, rows: RawRows, view: View, cache: AnswerCache, reads: anyio.CapacityLimiter
    ) -> None:
        self._database, self._rows, self._view, self._cache, self._reads = database, rows, view, cache, reads

    async def etag(self, thing_id: str) -> str | None:
        """The entity tag of the thing as it is now; None where there is none."""
        if self._rows.reads_at_once:
            digest = self._rows.digest(thing_id)
        else:
            digest = await run_sync(self._rows.digest, thing_id, limiter=self._reads)
        return f'"{digest}"' if digest else None

    async def kept(self, thing_id: str) -> Answer | None:
        """The answer, if it was made before and nothing has changed since."""
        etag = await self.etag(thing_id)
        return self._cache.get(etag) if etag is not None else None

    async def answer(self, thing_id: str) -> Answer:
        """Raises NotFound."""
        if (kept := await self.kept(thing_id)) is not None:
            return kept
        made = await run_sync(self._made, thing_id, limiter=self._reads)
        self._cache.put(made)
        return made

    def _made(self, thing_id: str) -> Answer:
        with self._database.read() as session:  # one snapshot: the tag belongs to this very content
            view = self._view(session, thing_id)
            digest = self._rows.digest_in(session, thing_id)
        status = getattr(view, "status", None)
        is_finished = isinstance(status, JobStatus) and status.finished
        return Answer(view.__pydantic_serializer__.to_json(view), f'"{digest}"', is_finished)


@dataclass(frozen=True)
class AllThings:
    """The kinds of things that are asked for one by one, most of all by clients that wait."""

    jobs: Things
    searches: Things
    models: Things
    measurements: Things

    @cached_property
    def by_name(self) -> Mapping[str, Things]:
        """By the first segment of their addresses."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def all_things(database: Database, connections: Connections, reads: anyio.CapacityLimiter) -> AllThings:
    """They share one cache, and `reads` bounds the threads that read."""
    cache = AnswerCache(CACHE_BYTES)
    job_fixed = ("result", "payload", "checkpoint")  # a result comes with its finished_at
    rows = {
        "jobs": RawRows(connections, [Job], fixed=job_fixed),
        "searches": RawRows(connections, [Search, Job], "JOIN job ON job.id = search.job_id", (*job_fixed, "request")),
        "models": RawRows(connections, [Model]),
        "measurements": RawRows(connections, [Measurement], fixed=("session",)),
    }
    views: dict[str, View] = {
        "jobs": lambda session, job_id: jobs.view(session, jobs.get(session, job_id)),
        "searches": lambda session, search_id: searches.view(session, *searches.get(session, search_id)),
        "models": lambda session, model_id: models.view(models.get(session, model_id)),
        "measurements": lambda session, of: measurements.detail(session, measurements.get(session, of)),
    }
    return AllThings(**{name: Things(database, rows[name], views[name], cache, reads) for name in rows})


def respond(answer: Answer, if_none_match: str | None) -> Response:
    """The answer, or 304 without it to who has it."""
    if matches(if_none_match, answer.etag):
        return Response(status_code=304, headers={"ETag": answer.etag})
    return Response(answer.content, media_type=JSON_TYPE, headers={"ETag": answer.etag})


def matches(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    etags = [text.strip().removeprefix("W/") for text in if_none_match.split(",")]
    return "*" in etags or etag in etags

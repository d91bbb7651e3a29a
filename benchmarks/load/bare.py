"""The bare app that the service is compared with: a token check and one statement on the same database, nothing else.

Started by `uvicorn benchmarks.load.bare:create --factory`; ELASTICVIT_DATABASE_URL names the database. Routes are
plain functions of threads for PostgreSQL and coroutines for SQLite: whichever was faster in a trial.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

Handler = TypeVar("Handler", bound=Callable[..., Any])
THINGS = {
    "models": "SELECT * FROM model WHERE id = ?",
    "searches": "SELECT job.*, request FROM search JOIN job ON job.id = search.job_id WHERE search.id = ?",
    "jobs": "SELECT * FROM job WHERE id = ?",
}
PAGE = 50
INSERT = (
    "INSERT INTO job (id, kind, status, device, model_id, payload, attempts, failures, max_attempts, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class NewJob(BaseModel):
    """The body of POST /jobs."""

    kind: str
    model_id: str
    device: str


class Claim(BaseModel):
    """The body of POST /leases."""

    agent_id: str
    devices: list[str]


class Rows:
    """One connection for each thread, transactions as short as they can be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._local = threading.local()

    @property
    def connection(self) -> Any:  # noqa: ANN401  of sqlite3 or psycopg
        if not hasattr(self._local, "connection"):
            self._local.connection = _connect(self.url)
        return self._local.connection

    def one(self, statement: str, *values: object) -> dict[str, Any] | None:
        """The only row, None without one."""
        found = self.connection.execute(self._placed(statement), values).fetchone()
        return dict(found) if found is not None else None

    def all(self, statement: str, *values: object) -> list[dict[str, Any]]:
        return [dict(row) for row in self.connection.execute(self._placed(statement), values).fetchall()]

    def write(self, statement: str, *values: object) -> int:
        """One statement in one transaction; how many rows it changed."""
        connection = self.connection
        if self.url.startswith("postgresql"):
            with connection.transaction():
                return int(connection.execute(self._placed(statement), values).rowcount)
        connection.execute("BEGIN IMMEDIATE")
        try:
            changed = int(connection.execute(statement, values).rowcount)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return changed

    def _placed(self, statement: str) -> str:
        return statement.replace("?", "%s") if self.url.startswith("postgresql") else statement


def _connect(url: str) -> Any:  # noqa: ANN401
    if url.startswith("postgresql"):
        import psycopg
        from psycopg.rows import dict_row

        return psycopg.connect(url, autocommit=True, row_factory=dict_row)
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def create() -> FastAPI:
    """The app; its routes have the service's addresses."""
    rows = Rows(os.environ["ELASTICVIT_DATABASE_URL"])
    app = FastAPI()
    at_once = _plain if rows.url.startswith("postgresql") else _coroutine

    @at_once
    def authorise(authorization: Annotated[str, Header()] = "") -> None:
        digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        token = rows.one("SELECT id, role, revoked_at FROM token WHERE secret_sha256 = ?", digest)
        if token is None or token["revoked_at"] is not None:
            raise HTTPException(401, "no such token")

    for path, statement in THINGS.items():
        app.get(f"/{path}/{{thing_id}}", dependencies=[Depends(authorise)])(at_once(_getter(rows, statement)))

    @app.get("/jobs", dependencies=[Depends(authorise)])
    @at_once
    def jobs() -> list[dict[str, Any]]:
        return rows.all("SELECT * FROM job ORDER BY id DESC LIMIT ?", PAGE)

    @app.post("/jobs", status_code=202, dependencies=[Depends(authorise)])
    @at_once
    def create_job(body: NewJob) -> dict[str, str]:
        job_id = f"job-{int(time.time() * 1e3):011x}{secrets.token_hex(4)}"
        rows.write(
            INSERT, job_id, body.kind, "queued", body.device, body.model_id, "{}", 0, 0, 3, "2026-01-01 00:00:00"
        )
        return {"id": job_id, "status": "queued", "url": f"/jobs/{job_id}"}

    @app.post("/leases", dependencies=[Depends(authorise)])
    @at_once
    def lease(body: Claim) -> dict[str, Any]:
        return {"changed": rows.write("UPDATE device SET state = ? WHERE name = ?", "idle", body.devices[0])}

    return app


def _getter(rows: Rows, statement: str) -> Callable[[str], dict[str, Any]]:
    def get(thing_id: str) -> dict[str, Any]:
        found = rows.one(statement, thing_id)
        if found is None:
            raise HTTPException(404, "no such thing")
        return found

    return get


def _plain(handler: Handler) -> Handler:
    return handler


def _coroutine(handler: Handler) -> Handler:
    """SQLite answers within microseconds, faster than a thread is reached."""

    async def call(**arguments: object) -> object:
        return handler(**arguments)

    call.__signature__ = inspect.signature(handler)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]

"""The application: settings in, an ASGI app out. All state belongs to the app; nothing is global."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from server import logs
from server.api import handlers
from server.api.edge.dispatch import Dispatch
from server.api.edge.gate import Gate
from server.api.edge.token_cache import TokenCache
from server.api.metrics import Metrics
from server.api.middleware import RequestLog
from server.api.routes import agents, devices, health, jobs, measurements, models, searches, supernets, tokens
from server.api.routes.deps import State
from server.clock import Clock, utc_now
from server.errors import ServerError
from server.services import job_ends, lease_expiry
from server.services import tokens as token_service
from server.services.home import prepare
from server.settings import Settings, load_settings
from server.store.blobs import Blobs
from server.store.db import Database
from server.store.tables import Token
from server.version import VERSION
from server.wakeup import Notifier
from server.wire.process import exit_with_parent

log = structlog.get_logger()
ROUTERS = (health, searches, models, supernets, jobs, devices, measurements, tokens, agents)


def from_environment() -> FastAPI:
    """The app of one of several server processes: each makes its own, by the settings of the environment.

    It ends with the process that started it, also with one that ended while this one was still starting.
    """
    exit_with_parent()
    starter = multiprocessing.parent_process()
    if starter is not None and os.getppid() != starter.pid:
        raise SystemExit(1)
    settings = load_settings()
    logs.configure(settings.log_level)
    return create_app(settings)


def create_app(settings: Settings, clock: Clock = utc_now) -> FastAPI:
    """An app on a home folder; the folder is prepared at startup. `clock` returns the time in UTC."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = await run_in_threadpool(prepare, settings, clock)

        def lookup(digests: Sequence[str]) -> Mapping[str, Token]:
            with database.read() as session:
                return token_service.usable(session, digests)

        app.state.server = State(
            settings=settings,
            database=database,
            blobs=Blobs(settings.blobs_folder),
            metrics=metrics,
            clock=clock,
            notifier=Notifier(settings.url),
            tokens=TokenCache(lookup, settings.token_cache_seconds),
        )
        sweeper = asyncio.create_task(_sweep_forever(database, clock, settings.sweep_seconds))
        try:
            yield
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
            database.close()

    metrics = Metrics()
    app = FastAPI(
        title="ElasticViT",
        version=VERSION,
        summary="A latency budget goes in, a vision model that meets it comes out.",
        lifespan=lifespan,
        responses=handlers.RESPONSES,
        strict_content_type=False,
        redirect_slashes=False,  # a redirect would repeat the Host header that anybody may send
    )
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_exception_handler(ServerError, handlers.server_error)
    app.add_exception_handler(RequestValidationError, handlers.invalid)
    app.add_exception_handler(HTTPException, handlers.http_error)
    app.add_exception_handler(DBAPIError, handlers.database_error)
    app.add_exception_handler(Exception, handlers.unexpected)
    for module in ROUTERS:
        app.include_router(module.router)
    app.router.routes.insert(0, Dispatch())
    return app


async def _sweep_forever(database: Database, clock: Clock, seconds: float) -> None:
    """Requeue what dead agents and workers held, and cancel jobs whose parent is finished.

    Every process may do it: each change is made once.
    """

    def sweep() -> tuple[int, int]:
        with database.write() as session:
            return lease_expiry.sweep(session, clock()), job_ends.sweep_orphans(session, clock())

    while True:
        try:
            expired, orphans = await run_in_threadpool(sweep)
            if expired:
                log.warning("leases expired", count=expired)
            if orphans:
                log.warning("jobs cancelled whose parent is finished", count=orphans)
        except (DBAPIError, ServerError):
            log.exception("the sweep of leases failed")
        await asyncio.sleep(seconds)

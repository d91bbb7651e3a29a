"""The application: settings in, an ASGI app out. All state belongs to the app; nothing is global."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from server.api import handlers
from server.api.hot_reads import HotReads
from server.api.lists import all_lists
from server.api.metrics import Metrics
from server.api.middleware import BodyLimit, RequestLog
from server.api.routes import agents, devices, health, jobs, measurements, models, searches, supernets, tokens
from server.api.routes.deps import State
from server.api.things import all_things
from server.api.watch import Watch
from server.clock import Clock, utc_now
from server.errors import ServerError
from server.services import job_ends, lease_expiry
from server.services.home import prepare
from server.settings import Settings
from server.store.blobs import Blobs
from server.store.db import Database
from server.version import VERSION

log = structlog.get_logger()
ROUTERS = (health, searches, models, supernets, jobs, devices, measurements, tokens, agents)
# More threads than these only wait for each other: reads take the interpreter's lock, writers the database's.
READ_THREADS, POOL_THREADS = 4, 8
MULTIPART_BYTES = 100_000  # what a form adds around the file in it


def create_app(settings: Settings, clock: Clock = utc_now) -> FastAPI:
    """An app on a home folder; the folder is prepared at startup. `clock` returns the time in UTC."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = await run_in_threadpool(prepare, settings, clock)
        database.hints.listen()
        reads = CapacityLimiter(READ_THREADS)
        to_thread.current_default_thread_limiter().total_tokens = POOL_THREADS
        things, watch = all_things(database, reads), Watch(database, reads)
        app.state.server = State(
            settings=settings,
            database=database,
            blobs=Blobs(settings.blobs_folder),
            metrics=metrics,
            clock=clock,
            notifier=database.hints,
            things=things,
            lists=all_lists(),
            watch=watch,
            reads=reads,
        )
        sweeper = asyncio.create_task(_sweep_forever(database, clock, settings.sweep_seconds))
        looker = asyncio.create_task(watch.look_forever())
        try:
            yield
        finally:
            watch.close()
            for task in (sweeper, looker):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            things.close()
            database.close()

    metrics = Metrics()
    app = FastAPI(
        title="ElasticViT",
        version=VERSION,
        summary="A latency budget goes in, a vision model that meets it comes out.",
        lifespan=lifespan,
        responses=handlers.RESPONSES,
        strict_content_type=False,
    )
    app.add_middleware(HotReads)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        uploads={"/models": settings.max_upload_bytes + MULTIPART_BYTES},
    )
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_exception_handler(ServerError, handlers.server_error)
    app.add_exception_handler(RequestValidationError, handlers.invalid)
    app.add_exception_handler(HTTPException, handlers.http_error)
    app.add_exception_handler(DBAPIError, handlers.database_error)
    app.add_exception_handler(Exception, handlers.unexpected)
    for module in ROUTERS:
        app.include_router(module.router)
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

"""The application: settings in, an ASGI app out. All state belongs to the app; nothing is global."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from server import logs
from server.api import handlers, openapi
from server.api.batches import Batches
from server.api.edge.dispatch import Dispatch
from server.api.edge.gate import Gate
from server.api.edge.protocol import END_WAITS
from server.api.edge.token_cache import TokenCache
from server.api.heartbeats import heard
from server.api.hot_agents import HotAgents
from server.api.hot_reads import HotReads
from server.api.lists import all_lists
from server.api.metrics import Metrics
from server.api.middleware import RequestLog
from server.api.routes import agents, devices, health, jobs, measurements, models, searches, supernets, tokens
from server.api.routes.deps import State
from server.api.sweeper import upkeep
from server.api.things import all_things
from server.api.watch import watched
from server.clock import Clock, utc_now
from server.errors import ServerError
from server.services import quick_measure
from server.services import tokens as token_service
from server.services.home import prepare
from server.services.uploads import UploadLimits, Uploads
from server.settings import Settings, load_settings
from server.store.blobs import Blobs
from server.store.raw_rows import Connections, QueuedFor
from server.store.tables import Token
from server.version import VERSION
from server.wire.process import exit_with_parent

ROUTERS = (health, searches, models, supernets, jobs, devices, measurements, tokens, agents)
# More threads than these only wait for each other: reads take the interpreter's lock, writers the database's.
READ_THREADS, WRITE_THREADS, POOL_THREADS = 4, 4, 8


def from_environment() -> FastAPI:
    """The app of one of several server processes: each makes its own, by the settings of the environment.

    It ends with the process that started it, also with one that ended while this one was still starting.
    """
    exit_with_parent()
    starter = multiprocessing.parent_process()
    if starter is not None and os.getppid() != starter.pid:
        raise SystemExit(1)
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_file)
    return create_app(settings)


def create_app(settings: Settings, clock: Clock = utc_now) -> FastAPI:
    """An app on a home folder; the folder is prepared at startup. `clock` returns the time in UTC."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        database = await run_in_threadpool(prepare, settings, clock)
        reads = CapacityLimiter(READ_THREADS)
        to_thread.current_default_thread_limiter().total_tokens = POOL_THREADS
        writes = CapacityLimiter(WRITE_THREADS)
        connections = Connections(database)
        uploads = Uploads(UploadLimits(settings.max_uploads, settings.unfinished_uploads_bytes))

        def lookup(digests: Sequence[str]) -> Mapping[str, Token]:
            with database.read() as session:
                return token_service.usable(session, digests)

        def queue_measuring(wanted: Sequence[quick_measure.Wanted]) -> Sequence[quick_measure.Outcome]:
            with suppress(IntegrityError), database.write() as session:
                return quick_measure.queue_all(session, wanted)
            return [None] * len(wanted)  # one cannot be stored: each is tried alone

        try:
            async with (
                upkeep(database, clock, settings) as sweeper,
                watched(database, reads, settings.look_seconds) as watch,
                heard(database, clock, settings.offline_after, reads, writes) as heartbeats,
            ):
                app.state.server = State(
                    settings=settings,
                    database=database,
                    blobs=Blobs(settings.blobs_folder),
                    metrics=metrics,
                    clock=clock,
                    things=all_things(database, connections, reads),
                    lists=all_lists(),
                    watch=watch,
                    reads=reads,
                    writes=writes,
                    heartbeats=heartbeats,
                    queue=QueuedFor(connections, database.hints, reads, settings.look_seconds),
                    measuring=Batches(queue_measuring, writes),
                    tokens=TokenCache(lookup, settings.token_cache_seconds),
                    sweeper=sweeper,
                    uploads=uploads,
                )
                yield {END_WAITS: watch.close}
        finally:
            connections.close()
            uploads.close()
            database.close()

    metrics = Metrics()
    app = FastAPI(
        title="ElasticViT",
        version=VERSION,
        summary="A latency budget goes in, a vision model that meets it comes out.",
        lifespan=lifespan,
        strict_content_type=False,
        redirect_slashes=False,  # a redirect would repeat the Host header that anybody may send
    )
    app.add_middleware(HotReads)
    app.add_middleware(HotAgents)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_exception_handler(ServerError, handlers.server_error)
    app.add_exception_handler(RequestValidationError, handlers.invalid)
    app.add_exception_handler(HTTPException, handlers.http_error)
    app.add_exception_handler(DBAPIError, handlers.database_error)
    app.add_exception_handler(PoolTimeout, handlers.no_connection)
    app.add_exception_handler(OSError, handlers.os_error)
    app.add_exception_handler(Exception, handlers.unexpected)
    for module in ROUTERS:
        app.include_router(module.router)
    app.router.routes.insert(0, Dispatch())
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]
    return app

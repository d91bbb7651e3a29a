"""The sweep: every few seconds a server takes back expired leases, and records that it is alive."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from server.clock import Clock
from server.errors import ServerError
from server.services import clock_jumps, presence, sweeping
from server.services.clock_jumps import Jumps, Longest
from server.settings import Settings
from server.store.db import Database, from_database_error
from server.wire.liveness import Liveness, Pulse, Watchdog

log = structlog.get_logger()
# A sweep waits for other writers, and a database that comes back for its own recovery.
SWEEP_SECONDS = 300.0
LATE_SECONDS = 60.0
BEAT_SECONDS, LOOP_SECONDS = 1.0, 300.0
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Swept:
    """The last sweep: when (monotonic clock), how many have failed in a row, and why this one did, None if it did
    not."""

    at_s: float
    failures: int = 0
    why: str | None = None


@asynccontextmanager
async def upkeep(database: Database, clock: Clock, settings: Settings) -> AsyncIterator[Sweeper]:
    """The sweeper of a server process, which works inside the block. A watchdog ends the process when the sweeper or
    the event loop is dead or hung."""
    liveness, sweeper = Liveness(), Sweeper(database, clock, settings.sweep_seconds, Longest.of(settings))
    watchdog, thread = Watchdog(liveness), liveness.thread("sweeper", sweeper.run)
    loop = asyncio.create_task(_beat(liveness.pulse("event loop")))
    thread.start()
    watchdog.start()
    try:
        yield sweeper
    finally:
        watchdog.stop()
        sweeper.stop()
        loop.cancel()
        await run_in_threadpool(thread.join, STOP_SECONDS)


async def _beat(pulse: Pulse) -> None:
    while True:
        pulse.within(LOOP_SECONDS)
        await asyncio.sleep(BEAT_SECONDS)


class Sweeper:
    """Every server process has one: each change is made once. Nothing but `stop` ends it."""

    def __init__(self, database: Database, clock: Clock, every_seconds: float, longest: Longest | None = None) -> None:
        self._database = database
        self._longest = longest or Longest.of(Settings())
        self._jumps, self._jump = Jumps(), timedelta(0)
        self._clock = clock
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._me = presence.Member.of_this_process("server")
        self.last = Swept(time.monotonic())

    def run(self, pulse: Pulse) -> None:
        """Sweep until `stop`."""
        while True:
            pulse.within(SWEEP_SECONDS)
            self._try()
            pulse.within(self._every_seconds + SWEEP_SECONDS)
            if self._stop.wait(self._every_seconds):
                return

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.last.at_s > self._every_seconds + LATE_SECONDS

    def sweep(self) -> None:
        """Do what time does to the queue (`server.services.sweeping`), and mark that this process is alive."""
        now = self._clock()
        self._jump += self._jumps.since_last(now)
        with self._database.write() as session:
            presence.mark(session, self._me, now)
            presence.forget(session, "server", now)
            presence.forget(session, "worker", now)
            # First, so that nothing expires by a clock that was set.
            moved = clock_jumps.settle(session, now, self._jump, self._longest)
            done = sweeping.sweep(session, now)
        self._jump = timedelta(0)
        if moved:
            log.warning("the clock was set, or this computer slept: leases and deadlines moved with it", jobs=moved)
        for what, count in done.items():
            log.warning(what, count=count)

    def _try(self) -> None:
        try:
            self.sweep()
        except Exception as error:  # the next sweep may succeed, and nobody else does this work
            why = _sentence(error)
            if why != self.last.why:
                log.exception("the sweep of leases failed; trying again")
            self.last = Swept(time.monotonic(), self.last.failures + 1, why)
        else:
            if self.last.why is not None:
                log.info("the sweep of leases works again")
            self.last = Swept(time.monotonic())


def _sentence(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        return from_database_error(error).detail
    return error.detail if isinstance(error, ServerError) else f"{type(error).__name__}: {error}"

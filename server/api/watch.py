"""Coroutines that wait for something to change, on events of this process and never on the database.

Hints (`server.store.hints`) set the events. Since a hint may be lost, one query every few seconds looks for all who
wait, however many there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import structlog
from anyio.to_thread import run_sync

from server.services import waits
from server.store.db import Database
from server.store.hints import QUEUE, device_topic, job_topic

log = structlog.get_logger()
PAUSE_SECONDS = 0.05  # between two looks, however many hints ask for one
DEVICE, JOB = device_topic(""), job_topic("")


class Waiting:
    """One who waits: `cleared` before looking, then `within`."""

    def __init__(self, closing: asyncio.Event) -> None:
        self._event, self._closing = asyncio.Event(), closing
        self._loop = asyncio.get_running_loop()
        self._gone = False

    def wake(self) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        """Before looking, so that what happens from then on is not missed."""
        self._event.clear()

    async def within(self, seconds: float) -> bool:
        """Whether it was woken before the time was over."""
        if seconds <= 0 or self._gone or self._closing.is_set():
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return not self._closing.is_set()

    async def until(self, deadline_s: float) -> bool:
        """Whether it was woken before a time of the monotonic clock, while its client is still connected."""
        return await self.within(deadline_s - time.monotonic()) and not self._gone

    def leave(self) -> None:
        """Its client has gone: the wait ends. In the event loop."""
        self._gone = True
        self._event.set()

    @property
    def over(self) -> bool:
        """Whether the server is closing, so that nobody should wait any more."""
        return self._closing.is_set()


class Watch:
    """Everybody who waits in one app."""

    def __init__(self, database: Database, reads: anyio.CapacityLimiter, look_seconds: float) -> None:
        self._database, self._reads, self._look_seconds = database, reads, look_seconds
        self._closing = asyncio.Event()
        self._waiting: set[Waiting] = set()
        self._states: dict[str, Any] = {}

    @contextmanager
    def waiting(self, topics: Collection[str]) -> Iterator[Waiting]:
        waiting = Waiting(self._closing)
        self._waiting.add(waiting)
        try:
            with self._database.hints.subscribed(topics, waiting.wake):
                yield waiting
        finally:
            self._waiting.discard(waiting)

    def close(self) -> None:
        """End every wait, now and from now on."""
        self._closing.set()
        for waiting in self._waiting:
            waiting.wake()

    async def look_forever(self) -> None:
        """Look for lost hints."""
        with self.waiting([QUEUE]) as waiting:
            while not waiting.over:
                await waiting.within(self._look_seconds)
                waiting.clear()
                await asyncio.sleep(PAUSE_SECONDS)
                try:
                    await self.look()
                except Exception:  # the next look may succeed, and nobody else does this work
                    log.exception("the database does not answer those who wait; trying again")

    async def look(self) -> None:
        """Wake those for whom something has changed."""
        devices, job_ids = self._database.hints.topics(DEVICE), self._database.hints.topics(JOB)
        if devices or job_ids:
            found = await run_sync(self._look, set(devices), job_ids, limiter=self._reads)
            self._database.hints.wake(found)
        else:
            self._states = {}

    def _look(self, devices: set[str], job_ids: list[str]) -> list[str]:
        with self._database.read() as session:
            with_jobs = waits.devices_with_jobs(session, devices) if devices else []
            states = waits.job_states(session, job_ids) if job_ids else {}
        # One that was not looked at before may have changed between its client's look and this one.
        changed = [job_id for job_id, state in states.items() if self._states.get(job_id) != state]
        self._states = states
        return [*map(device_topic, with_jobs), *map(job_topic, changed)]


@asynccontextmanager
async def watched(database: Database, reads: anyio.CapacityLimiter, look_seconds: float) -> AsyncIterator[Watch]:
    """A watch that receives the hints of other processes, and looks for lost ones, inside the block."""
    database.hints.listen()
    watch = Watch(database, reads, look_seconds)
    looking = asyncio.create_task(watch.look_forever())
    try:
        yield watch
    finally:
        watch.close()
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking

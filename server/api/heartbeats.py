"""Heartbeats that say nothing new are kept in memory, and written together every few seconds: an idle agent's write
nothing by themselves. A claim counts as a heartbeat, which says that its devices are idle.

Written at once is what changes a device's state, and soon what would be overdue. What the database has not seen yet is
lost with the process; the next heartbeat is as good.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio
import structlog
from anyio.to_thread import run_sync

from server.clock import Clock
from server.services import beats, devices
from server.services.beats import Beat
from server.store.db import Database
from server.store.hints import AGENTS
from server.wire import DeviceState, Heartbeat

log = structlog.get_logger()
CHUNK = 250  # agents of one transaction
MOST_SECONDS, LEAST_SECONDS = 4.0, 0.05
SOON_SECONDS = 1.0  # until what is overdue is written, with all that comes meanwhile
KEPT = 20  # times that: how long an agent is known that is heard elsewhere, or not at all


@dataclass
class _Known:
    """An agent as it was written last."""

    token_id: str
    states: dict[str, DeviceState]
    written_at: datetime


class Heartbeats:
    """Those of the agents that this process hears. Belongs to the event loop."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        offline_after: timedelta,
        reads: anyio.CapacityLimiter,
        writes: anyio.CapacityLimiter,
    ) -> None:
        self._database, self._clock, self._reads, self._writes = database, clock, reads, writes
        self._every_seconds = min(MOST_SECONDS, max(LEAST_SECONDS, offline_after.total_seconds() / 5))
        # Later than that, the next flush could come too late. Heartbeats of many agents come every `offline_after` / 2.
        self._overdue = offline_after - timedelta(seconds=1.5 * self._every_seconds)
        self._known: dict[str, _Known] = {}
        self._waiting: dict[str, Beat] = {}
        self._generation = 0
        self._is_overdue = False

    def __len__(self) -> int:
        """How many agents are heard."""
        return len(self._known)

    def knows(self, agent_id: str, token_id: str, names: Sequence[str]) -> bool:
        """Whether the agent is registered with this token and these devices."""
        known = self._known.get(agent_id)
        return known is not None and known.token_id == token_id and known.states.keys() >= set(names)

    def forget(self) -> None:
        """Ask the database again from now on: a device or an agent changed hands."""
        self._generation += 1
        self._known.clear()

    def hear_again(self, body: Heartbeat, token_id: str) -> bool:
        """Whether it says nothing new, so that it was kept for the next flush."""
        known, now = self._known.get(body.agent_id), self._clock()
        if known is None or known.token_id != token_id:
            return False
        if any(known.states.get(beat.name) != beat.state for beat in body.devices):
            return False
        self._keep(body.agent_id, known, Beat.of(now, body.devices))
        return True

    def hear_claim(self, agent_id: str, token_id: str, names: Sequence[str]) -> bool:
        """Whether the agent is known. Its claim shows that it is alive and that these devices are idle."""
        if not self.knows(agent_id, token_id, names):
            return False
        known, now = self._known[agent_id], self._clock()
        known.states |= dict.fromkeys(names, DeviceState.IDLE)
        self._keep(agent_id, known, self._waiting.get(agent_id, Beat(now, {})).and_idle(now, names))
        return True

    async def hear(self, body: Heartbeat, token_id: str) -> None:
        """Raises NotFound for an unknown agent or device, Forbidden for another agent's."""
        if not self.knows(body.agent_id, token_id, []):
            await self.learn(body.agent_id, token_id)
        if self.hear_again(body, token_id):
            return
        now, states = self._clock(), {beat.name: beat.state for beat in body.devices}
        if self.knows(body.agent_id, token_id, []):
            states = self._known[body.agent_id].states | states
        generation = self._generation
        await run_sync(self._write_one, body, token_id, now, limiter=self._writes)
        self._waiting.pop(body.agent_id, None)
        if generation == self._generation:
            self._known[body.agent_id] = _Known(token_id, states, now)

    async def learn(self, agent_id: str, token_id: str) -> None:
        """Read what other processes wrote of an agent, or this one before it forgot. Raises NotFound for an unknown
        agent, Forbidden for another token's."""
        generation = self._generation
        at, states = await run_sync(self._read, agent_id, token_id, limiter=self._reads)
        if generation == self._generation:
            self._known[agent_id] = _Known(token_id, states, at)

    async def flush(self) -> None:
        """Write what waits."""
        self._is_overdue = False
        while self._waiting:
            some = {agent_id: self._waiting.pop(agent_id) for agent_id in sorted(self._waiting)[:CHUNK]}
            if not await run_sync(self._write, some, limiter=self._writes):
                self.forget()
            for agent_id, beat in some.items():
                if (known := self._known.get(agent_id)) is not None:
                    known.written_at = max(known.written_at, beat.at)

    async def flush_forever(self) -> None:
        waited_seconds, step_seconds = 0.0, min(SOON_SECONDS, self._every_seconds)
        while True:
            await asyncio.sleep(step_seconds)
            waited_seconds += step_seconds
            if not self._is_overdue and waited_seconds < self._every_seconds:
                continue
            waited_seconds = 0.0
            try:
                await self.flush()
                self._drop_silent()
            except Exception:  # the next heartbeats are as good
                log.exception("heartbeats could not be written; trying again")

    def _keep(self, agent_id: str, known: _Known, beat: Beat) -> None:
        """For the next flush."""
        self._waiting[agent_id] = beat
        # Of several server processes another one may have heard it meanwhile, and nothing is overdue then.
        self._is_overdue = self._is_overdue or beat.at - known.written_at >= self._overdue

    def _drop_silent(self) -> None:
        now = self._clock()
        kept = KEPT * self._overdue
        self._known = {key: known for key, known in self._known.items() if now - known.written_at < kept}

    def _write_one(self, body: Heartbeat, token_id: str, now: datetime) -> None:
        with self._database.write() as session:
            devices.heartbeat(session, body.agent_id, body.devices, token_id, now)

    def _read(self, agent_id: str, token_id: str) -> tuple[datetime, dict[str, DeviceState]]:
        with self._database.read() as session:
            return beats.last(session, agent_id, token_id)

    def _write(self, some: dict[str, Beat]) -> bool:
        with self._database.write() as session:
            return beats.write(session, some)


@asynccontextmanager
async def heard(
    database: Database,
    clock: Clock,
    offline_after: timedelta,
    reads: anyio.CapacityLimiter,
    writes: anyio.CapacityLimiter,
) -> AsyncIterator[Heartbeats]:
    """Heartbeats that are written now and then inside the block, and at its end."""
    heartbeats, loop = Heartbeats(database, clock, offline_after, reads, writes), asyncio.get_running_loop()

    def forget() -> None:
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(heartbeats.forget)

    flushing = asyncio.create_task(heartbeats.flush_forever())
    try:
        with database.hints.subscribed([AGENTS], forget):
            yield heartbeats
    finally:
        flushing.cancel()
        with suppress(asyncio.CancelledError):
            await flushing
        with suppress(Exception):  # the database may be gone, and the agents go on calling
            await heartbeats.flush()

"""Tokens by the hash of their secrets, kept for a few seconds, so that a request need not ask the database.

What is not kept is asked for in batches, one batch at a time: however many requests with unknown tokens arrive, they
cost one short query after another, not one each.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anyio import CapacityLimiter, to_thread

from server.store.tables import Token

MAX_KNOWN = 10_000
MAX_UNKNOWN = 4000
MAX_BATCH = 500  # parameters of one query

Lookup = Callable[[Sequence[str]], Mapping[str, Token]]


@dataclass(frozen=True, slots=True)
class _Entry:
    token: Token | None
    until_s: float
    generation: int


class TokenCache:
    """Answers within `lifetime_seconds` come from memory; `forget` ends them all at once.

    `lookup` is called in a thread with hashes, and gives the tokens that may be used by them. Only the event loop's
    thread calls `find`; any thread may call `forget`.
    """

    def __init__(
        self, lookup: Lookup, lifetime_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup
        self._lifetime_seconds = lifetime_seconds
        self._monotonic = monotonic
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, _Entry] = OrderedDict()
        self._wanted: dict[str, asyncio.Future[Token | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._generation = 0

    def forget(self) -> None:
        """Ask the database again from now on, also for what is being asked at this moment."""
        self._generation += 1

    async def find(self, sha256: str) -> Token | None:
        """The token of a secret with this hash, None if there is none that may be used. Raises what `lookup` raises."""
        entry = self._known.get(sha256) or self._unknown.get(sha256)
        if entry is not None and entry.generation == self._generation and entry.until_s > self._monotonic():
            return entry.token
        future = self._wanted.get(sha256)
        if future is None:
            future = self._wanted[sha256] = asyncio.get_running_loop().create_future()
            # It may end after all who wait for it have gone.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        # One request that is given up takes nothing from the others that wait for the same.
        return await asyncio.shield(future)

    async def _ask(self) -> None:
        limiter = CapacityLimiter(1)  # of its own, so that it does not queue behind the routes
        while self._wanted:
            batch = dict(list(self._wanted.items())[:MAX_BATCH])
            for sha256 in batch:
                del self._wanted[sha256]
            generation = self._generation
            try:
                found = await to_thread.run_sync(self._lookup, list(batch), limiter=limiter)
            except Exception as error:
                for future in batch.values():
                    future.set_exception(error)
                continue
            until_s = self._monotonic() + self._lifetime_seconds
            for sha256, future in batch.items():
                token = found.get(sha256)
                self._keep(sha256, _Entry(token, until_s, generation))
                future.set_result(token)

    def _keep(self, sha256: str, entry: _Entry) -> None:
        """Those of wrong secrets never push out those of right ones."""
        entries, most = (self._unknown, MAX_UNKNOWN) if entry.token is None else (self._known, MAX_KNOWN)
        self._known.pop(sha256, None)
        self._unknown.pop(sha256, None)
        if len(entries) >= most:
            entries.popitem(last=False)
        entries[sha256] = entry

"""Group commit: requests that arrive while a transaction runs share the next one.

The end of a transaction costs more than a row: SQLite writes to the disk, PostgreSQL also sends a message to all
listeners. Without load a request is alone in its batch and waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request

from server.api.edge.bodies import Departed

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
MAX_BATCH = 200


@dataclass
class _Entry(Generic[Asked, Answer]):
    asked: Asked
    request: Request
    answer: asyncio.Future[Answer]
    waited: bool


class Batches(Generic[Asked, Answer]):
    """`work` is called in a thread with what was asked, one batch at a time. It returns for each an answer, or the
    exception that its caller gets; what it raises, all callers of the batch get. Belongs to the event loop."""

    def __init__(
        self, work: Callable[[Sequence[Asked]], Sequence[Answer | Exception]], limiter: CapacityLimiter
    ) -> None:
        self._work, self._limiter = work, limiter
        self._waiting: list[_Entry[Asked, Answer]] = []
        self._running: asyncio.Task[None] | None = None

    async def answer(self, asked: Asked, request: Request) -> Answer:
        """What `work` answers. Raises Departed instead, if the client has left before its batch was begun."""
        running = self._running is not None and not self._running.done()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(asked, request, answer, waited=running))
        if not running:
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            async with self._limiter:
                batch = await self._next_batch()
                if batch:
                    await self._answer(batch)

    async def _next_batch(self) -> list[_Entry[Asked, Answer]]:
        """The next ones without those that nobody waits for any more."""
        taken, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        for entry in taken:
            if entry.waited and await entry.request.is_disconnected() and not entry.answer.done():
                entry.answer.set_exception(Departed())
        return [entry for entry in taken if not entry.answer.done()]

    async def _answer(self, batch: list[_Entry[Asked, Answer]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            # The limiter's turn is held already.
            answers = await run_sync(self._work, [entry.asked for entry in batch], limiter=CapacityLimiter(1))
        except Exception as error:
            answers = [error] * len(batch)
        for entry, answer in zip(batch, answers, strict=True):
            if entry.answer.done():  # its request was given up meanwhile
                continue
            if isinstance(answer, Exception):
                entry.answer.set_exception(answer)
            else:
                entry.answer.set_result(answer)

"""Requests that need a thread of the pool wait for it here, so that those whose clients have gone are dropped.

Without it they would wait inside the framework, which begins the work of a client that left long ago.
"""

from __future__ import annotations

import asyncio

import anyio
from anyio import to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.edge.bodies import Departed


class Admission:
    """As many requests at once as the pool has threads, in the order in which they came."""

    def __init__(self) -> None:
        self._free: asyncio.Semaphore | None = None

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app when there is a thread for it. Raises Departed instead, if the client has left before."""
        if self._free is None:
            self._free = asyncio.Semaphore(int(to_thread.current_default_thread_limiter().total_tokens))
        waits = self._free.locked()
        async with self._free:
            if waits:
                receive = await _still_there(receive)
            await app(scope, receive, send)


async def _still_there(receive: Receive) -> Receive:
    """Take what has arrived from the client, without waiting. Raises Departed if it is the news that it has gone."""
    arrived: list[Message] = []
    while True:
        message: Message | None = None
        with anyio.CancelScope() as now:
            now.cancel()
            message = await receive()
        if message is None:
            break
        if message["type"] == "http.disconnect":
            raise Departed
        arrived.append(message)

    async def receive_rest() -> Message:
        return arrived.pop(0) if arrived else await receive()

    return receive_rest

"""One request and its answer, as uvicorn runs them, and what happens when its client leaves."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.api.edge.access import DEPARTED, ON_GONE


class BoundedCycle(RequestResponseCycle):
    """One request and its answer. Where the answer is sent before all of the body arrived, the rest is not wanted."""

    lingers = False
    task: asyncio.Task[None] | None = None

    async def run_asgi(self, app: ASGI3Application) -> None:
        async def unless_given_up(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  as ASGI has it
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if DEPARTED not in self.scope["state"]:
                    raise

        await super().run_asgi(unless_given_up)

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start" and self.more_body:
            self.keep_alive = False  # so that the answer says it
            await super().send(message)
            # Closing at once would destroy the answer on its way: the protocol first lets the client read it.
            self.lingers = self.keep_alive = True
        else:
            await super().send(message)


def give_up(cycle: RequestResponseCycle) -> None:
    """Its client has gone. A read is stopped wherever it waits, for a thread for example; a change goes on."""
    cycle.disconnected = True
    cycle.message_event.set()
    on_gone = cycle.scope["state"].get(ON_GONE)
    if on_gone is not None:
        on_gone()
    if isinstance(cycle, BoundedCycle) and cycle.task is not None and cycle.scope["method"] == "GET":
        cycle.scope["state"][DEPARTED] = True
        cycle.task.cancel()

"""A function that many requests ask for at once: it runs once for all of them, and nobody waits for it for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedCall(Generic[T]):
    """At most one call at a time, in a thread of its own, so that one that hangs takes no thread of other requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Future[T] | None = None

    async def get(self, function: Callable[[], T], seconds: float) -> T:
        """The result of a call that runs now or is begun. Raises TimeoutError, and what the function raises."""
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._begun(function))), seconds)

    def _begun(self, function: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._running is None or self._running.done():
                self._running = future = Future[T]()
                threading.Thread(target=_run, args=(function, future), name="shared call", daemon=True).start()
            return self._running


def _run(function: Callable[[], T], future: Future[T]) -> None:
    try:
        result = function()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)

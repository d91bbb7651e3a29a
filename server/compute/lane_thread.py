"""A thread of a worker that can be watched: whether it is there, and when it last did something."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LaneThread(threading.Thread):
    """Runs `work`, which calls its argument every few seconds. A thread that has ended, or whose `last_alive` is old,
    does no jobs any more."""

    last_alive: float
    """Monotonic seconds."""

    def __init__(self, name: str, work: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(name=name)
        self._work = work
        self.last_alive = time.monotonic()

    def run(self) -> None:
        self._work(self._beat)

    def _beat(self) -> None:
        self.last_alive = time.monotonic()

"""How work is told to end."""

from __future__ import annotations

import threading

from device_agent.errors import Cancelled


class Cancellation:
    """A request to end, from any thread; the first reason stays. A child also ends with its parent."""

    def __init__(self, parent: Cancellation | None = None) -> None:
        self._parent = parent
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason = ""

    def set(self, reason: str) -> None:
        with self._lock:
            self._reason = self._reason or reason
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set() or (self._parent is not None and self._parent.is_set)

    @property
    def reason(self) -> str:
        """Empty while nobody asked."""
        return self._reason or (self._parent.reason if self._parent is not None else "")

    def check(self) -> None:
        """Raises Cancelled with the reason once the end was asked for."""
        if self.is_set:
            raise Cancelled(self.reason)

    def wait(self, seconds: float) -> bool:
        """Wait until this cancellation itself is set, not its parent; True when it is."""
        return self._event.wait(seconds)

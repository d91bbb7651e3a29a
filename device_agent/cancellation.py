"""Requests to end work."""

from __future__ import annotations

import threading
import weakref

from device_agent.errors import Cancelled


class Cancellation:
    """A request to end, from any thread; the first reason counts. Cancelling a parent cancels its children."""

    def __init__(self, parent: Cancellation | None = None) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason = ""
        # Weak: a job's cancellation goes with the job, and that of the agent stays.
        self._children: weakref.WeakSet[Cancellation] = weakref.WeakSet()
        if parent is not None:
            parent._adopt(self)

    def set(self, reason: str) -> None:
        with self._lock:
            self._reason = self._reason or reason
            children = list(self._children)
            self._event.set()
        for child in children:
            child.set(reason)

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Empty until it is set."""
        return self._reason

    def check(self) -> None:
        """Raises Cancelled with the reason once it is set."""
        if self.is_set:
            raise Cancelled(self.reason)

    def wait(self, seconds: float | None) -> bool:
        """Wait until it is set, at most some seconds (None: without limit); whether it is."""
        return self._event.wait(seconds)

    def _adopt(self, child: Cancellation) -> None:
        with self._lock:
            self._children.add(child)
            is_set = self._event.is_set()
        if is_set:
            child.set(self._reason)

"""A listener between server and workers of one database on one machine, so that a new job is begun at once.

A datagram to a few abstract Unix sockets, whose names follow from the database's URL: no file is left behind, and who
is not there is not rung. It is only a hint. Whoever misses it, or works on another machine, finds the job when it next
looks into the queue.
"""

from __future__ import annotations

import hashlib
import socket
import threading
from contextlib import suppress

SLOTS = 8  # workers of one database on one machine that can be rung


class Notifier:
    """Rings all workers; never raises, never waits."""

    def __init__(self, url: str) -> None:
        self._url = url

    def notify(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            for slot in range(SLOTS):
                with suppress(OSError):
                    out.sendto(b"!", _address(self._url, slot))


class WakeupListener:
    """A worker's ear: threads wait here for something to do. Without a free slot it is never rung."""

    def __init__(self, url: str) -> None:
        self._waiters: list[threading.Event] = []
        self._socket = _bound(url)
        if self._socket is not None:
            threading.Thread(target=self._listen, args=(self._socket,), name="listener", daemon=True).start()

    def waiter(self) -> threading.Event:
        """An event that is set at every ring; whoever waits for it clears it before looking for work."""
        event = threading.Event()
        self._waiters.append(event)
        return event

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _listen(self, ear: socket.socket) -> None:
        while True:
            try:
                if not ear.recv(1):
                    return
            except OSError:
                return
            for event in self._waiters:
                event.set()


def _bound(url: str) -> socket.socket | None:
    for slot in range(SLOTS):
        try:
            ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            return None
        try:
            ear.bind(_address(url, slot))
        except OSError:
            ear.close()
        else:
            return ear
    return None


def _address(url: str, slot: int) -> bytes:
    return b"\0elasticvit-" + hashlib.sha256(url.encode()).hexdigest()[:32].encode() + b"-%d" % slot

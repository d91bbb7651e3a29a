"""Wake-ups from the server to the workers of the same database on the same machine, so that jobs start at once.

The server sends a datagram to a few abstract Unix sockets, whose names follow from the database's URL; no file is left
behind. A wake-up is only a hint: a worker that misses it, or runs on another machine, finds the job at its next poll.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from contextlib import suppress

SLOTS = 8  # workers of one database on one machine that can be woken


class Notifier:
    """Wakes all workers; never raises, never waits."""

    def __init__(self, url: str) -> None:
        self._url = url

    def notify(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            for slot in range(SLOTS):
                with suppress(OSError):
                    out.sendto(b"!", _address(self._url, slot))


class WakeupListener:
    """Receives wake-ups for the threads of a worker. Without a free slot it gets none, and its threads only poll."""

    def __init__(self, url: str) -> None:
        self._waiters: list[threading.Event] = []
        self._socket = _bound(url)
        if self._socket is not None:
            threading.Thread(target=self._listen, args=(self._socket,), name="listener", daemon=True).start()

    def waiter(self) -> threading.Event:
        """An event that is set by every wake-up; its thread clears it before it looks for work."""
        event = threading.Event()
        self._waiters.append(event)
        return event

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _listen(self, receiver: socket.socket) -> None:
        while True:
            try:
                if not receiver.recv(1):
                    return
            except OSError:
                return
            for event in self._waiters:
                event.set()


def _bound(url: str) -> socket.socket | None:
    for slot in range(SLOTS):
        try:
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            return None
        try:
            receiver.bind(_address(url, slot))
        except OSError:
            receiver.close()
        else:
            return receiver
    return None


def _address(url: str, slot: int) -> bytes:
    return b"\0elasticvit-" + hashlib.sha256(os.fsencode(url)).hexdigest()[:32].encode() + b"-%d" % slot

"""Datagrams between the processes of one database on one machine: which topics changed.

Each process that listens binds one of a few abstract Unix sockets, whose names follow from the database's URL; no file
is left behind. A datagram is only a hint: it may be lost, and processes on other machines get none, so whoever waits
looks by itself now and then.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import suppress

SLOTS = 8  # processes of one database on one machine that can be reached
MAX_BYTES = 4096
ANY = "*"
"""Stands for every topic."""
Deliver = Callable[[list[str]], None]


class Datagrams:
    """Sends topics to the other processes; `listen` receives theirs."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._receiver: socket.socket | None = None
        self._slot = -1
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)

    def send(self, topics: Collection[str]) -> None:
        """Never raises, never waits."""
        message = "\n".join(topics).encode("utf-8", "surrogateescape")
        for slot in range(SLOTS):
            if slot != self._slot:
                with suppress(OSError):
                    self._sender.sendto(
                        message if len(message) <= MAX_BYTES else ANY.encode(), _address(self._url, slot)
                    )

    def listen(self, deliver: Deliver) -> None:
        """Call `deliver` in a thread, with the topics of every datagram. Without a free slot nothing is received."""
        self._receiver, self._slot = _bound(self._url)
        if self._receiver is not None:
            target = threading.Thread(target=_receive, args=(self._receiver, deliver), name="hints", daemon=True)
            target.start()

    def close(self) -> None:
        if self._receiver is not None:
            with suppress(OSError):
                self._receiver.shutdown(socket.SHUT_RDWR)
            self._receiver.close()
        self._sender.close()


def _receive(receiver: socket.socket, deliver: Deliver) -> None:
    while True:
        try:
            message = receiver.recv(MAX_BYTES)
        except OSError:
            return
        if not message:
            return
        deliver(message.decode("utf-8", "surrogateescape").split("\n"))


def _bound(url: str) -> tuple[socket.socket | None, int]:
    for slot in range(SLOTS):
        try:
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            break
        try:
            receiver.bind(_address(url, slot))
        except OSError:
            receiver.close()
        else:
            return receiver, slot
    return None, -1


def _address(url: str, slot: int) -> bytes:
    return b"\0elasticvit-" + hashlib.sha256(os.fsencode(url)).hexdigest()[:32].encode() + b"-%d" % slot

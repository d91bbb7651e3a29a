"""LISTEN: one connection of a process that receives what transactions of other processes notified."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from server.wakeup import ANY

if TYPE_CHECKING:
    import psycopg

log = structlog.get_logger()
CHANNEL = "elasticvit"
RETRY_SECONDS = 2.0
CONNECT_SECONDS = 10


class PostgresListener:
    """Calls `deliver` with every payload, from `start` to `close`; connects again when the database was away."""

    def __init__(self, url: str, deliver: Callable[[str], None]) -> None:
        self._url = "postgresql" + url[url.index("://") :]  # without SQLAlchemy's name of the driver
        self._deliver = deliver
        self._closing = threading.Event()
        self._listening = threading.Event()
        self._connected = False
        self._wake_read, self._wake_write = os.pipe()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether the connection listens now, as far as is known."""
        return self._connected

    def listening(self, seconds: float) -> bool:
        """Whether the connection listens, waited for."""
        return self._listening.wait(seconds)

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            os.write(self._wake_write, b"!")
        if self._thread is not None:
            self._thread.join(CONNECT_SECONDS)
        for end in (self._wake_read, self._wake_write):
            with suppress(OSError):
                os.close(end)

    def _run(self) -> None:
        import psycopg

        missed = False
        while not self._closing.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._listening.set()
                    if missed:
                        self._deliver(f"\n{ANY}")
                    self._connected = True
                    self._receive(connection)
            except (psycopg.Error, OSError) as error:
                missed, self._connected = True, False
                log.warning("hints of other processes are not received; trying again", reason=str(error))
                self._closing.wait(RETRY_SECONDS)

    def _receive(self, connection: psycopg.Connection) -> None:
        while not self._closing.is_set():
            select.select([connection.fileno(), self._wake_read], [], [])
            for notify in connection.notifies(timeout=0):
                self._deliver(notify.payload)

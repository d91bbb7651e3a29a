"""Where log lines go, for the service and for agents: writing one never raises and never waits for long.

A line that cannot be written, for instance on a full disk or to a reader that is gone, is dropped and counted; one line
says how many were dropped as soon as lines can be written again.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable
from contextlib import suppress

from server.wire.log_file import LogFile

STDOUT, STDERR = 1, 2
WAIT_MS = 100
# What a pipe that is ready takes without blocking: PIPE_BUF of Linux.
CHUNK_BYTES = 4096


class LogStream:
    """A text stream on a file descriptor, for all threads of a process.

    Args:
        dropped: the line, without its end, that says how many lines were dropped.
        file: the file behind the descriptor, which is kept small; None where another program looks after it.
    """

    def __init__(self, dropped: Callable[[int], str], descriptor: int = STDERR, file: LogFile | None = None) -> None:
        self._about_dropped = dropped
        self._descriptor = descriptor
        self._file = file
        self._lock = threading.Lock()
        self._dropped = 0
        self._torn = False

    def write(self, text: str) -> int:
        with self._lock:
            if self._file is not None:
                self._file.keep_small()
            self._write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""

    def _write(self, text: str) -> None:
        lines = (
            ("\n" if self._torn else "") + (f"{self._about_dropped(self._dropped)}\n" if self._dropped else "") + text
        )
        data = lines.encode("utf-8", "backslashreplace")
        written = self._put(data)
        if written == len(data):
            self._dropped, self._torn = 0, False
        else:
            self._dropped += max(1, text.count("\n"))
            self._torn = self._torn or written > 0

    def _put(self, data: bytes) -> int:
        """How many bytes were written."""
        written = 0
        with suppress(OSError):
            may_block = not stat.S_ISREG(os.fstat(self._descriptor).st_mode)
            while written < len(data) and (not may_block or self._ready()):
                written += os.write(self._descriptor, data[written : written + CHUNK_BYTES])
        return written

    def _ready(self) -> bool:
        """Whether a pipe, socket or terminal takes bytes within `WAIT_MS`; its reader may have stopped."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(WAIT_MS))

"""Exports in a process of their own, which is started early, kept warm, and replaced when it dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from server.compute.exporting.order import Order, Result, Watch
from server.compute.exporting.process import ExporterKilled, Limits, Process
from server.settings import Settings

TURN_SECONDS = 0.1
log = structlog.get_logger()


class ChildExporter:
    """Runs orders in one child process, one at a time. With `kept` the process stays between orders, with the supernets
    that it loaded; otherwise it ends after each, for work that is rare and takes much memory."""

    def __init__(self, limits: Limits, kept: bool = True) -> None:
        self._limits = limits
        self._kept = kept
        self._turn = threading.Lock()
        self._process: Process | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process, which begins to load what every order needs; does not wait for it."""
        with self._turn:
            self._ensure()

    def run(self, order: Order[Result], watch: Watch) -> Result:
        """The order's result. If a signal ends the process, the order is tried once more in another.

        Raises:
            ExportCrashed: the process died, or took too long or too much memory; the next order gets a new process.
            ElasticVitError, ServerError: of the work itself; and what `watch` raises, which ends the work.
        """
        try:
            return self._run(order, watch)
        except ExporterKilled as error:
            if self._closed:
                raise
            log.warning("the exporting process was killed; trying once more", detail=error.detail)
        watch.check()
        return self._run(order, watch)

    def _run(self, order: Order[Result], watch: Watch) -> Result:
        with self._exclusive(watch) as process:
            return process.run(order, watch)

    @property
    def pid(self) -> int | None:
        """Of the living process, None without one."""
        process = self._process
        return process.pid if process is not None and process.alive else None

    def close(self) -> None:
        """End the process, also in the middle of an order."""
        self._closed = True
        process = self._process
        if process is not None:
            process.end()
        with self._turn:
            self._drop()

    @contextmanager
    def _exclusive(self, watch: Watch) -> Iterator[Process]:
        while not self._turn.acquire(timeout=TURN_SECONDS):
            watch.check()
        try:
            yield self._ensure()
        finally:
            if not self._kept or (self._process is not None and not self._process.alive):
                self._drop()
                if self._kept and not self._closed:
                    self._ensure()
            self._turn.release()

    def _ensure(self) -> Process:
        if self._process is not None and not self._process.alive:
            self._drop()
        if self._process is None:
            self._process = Process(self._limits)
        return self._process

    def _drop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None


def limits_of(settings: Settings) -> Limits:
    """The time (seconds) and memory (bytes) that one export may take."""
    return Limits(settings.export_timeout_seconds, int(settings.export_memory_mb * 1e6))

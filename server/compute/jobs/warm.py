"""At a worker's start: load the default supernet before the first job needs it, and forget exports without measured
accuracy of those supernets whose images are on this machine now."""

from __future__ import annotations

import threading

import structlog

from server.compute.exporting.order import Exporter, FindImages, LoadSupernet, Order
from server.compute.task import STEP_SECONDS, Compute, Stopped
from server.errors import Conflict
from server.services import models, supernets
from server.wire.liveness import Pulse

log = structlog.get_logger()
LOOK_SECONDS = 1.0


def warm(compute: Compute, exporter: Exporter, stop: threading.Event, pulse: Pulse) -> None:
    """Wait for a default supernet, then load it. An error is logged only: the jobs that need the supernet report it."""
    folder, watch = compute.settings.supernets_folder, _UntilStop(stop, pulse)
    while not stop.is_set():
        watch.check()
        try:
            with compute.database.read() as session:
                default = supernets.ref(supernets.resolve(session, None), folder)
            _do(compute, exporter, LoadSupernet(default), watch)
            with compute.database.read() as session:
                unmeasured = [supernets.ref(row, folder) for row in models.with_unmeasured(session)]
            for ref in unmeasured:
                _do(compute, exporter, FindImages(ref), watch)
            return
        except Conflict:
            stop.wait(LOOK_SECONDS)  # no supernet is registered yet
        except Stopped:
            return
        except Exception as error:
            log.warning("a supernet could not be loaded in advance", why=str(error))
            return


def _do(compute: Compute, exporter: Exporter, order: Order[bool], watch: _UntilStop) -> None:
    if exporter.run(order, watch):
        with compute.database.write() as session:
            models.forget_unmeasured(session, order.supernet.name)


class _UntilStop:
    """A watch that ends the order when the worker stops."""

    def __init__(self, stop: threading.Event, pulse: Pulse) -> None:
        self._stop = stop
        self._pulse = pulse

    def stage(self, name: str) -> None:
        del name

    def check(self) -> None:
        self._pulse.within(STEP_SECONDS)
        if self._stop.is_set():
            raise Stopped

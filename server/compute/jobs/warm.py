"""At a worker's start: load the default supernet before the first job needs it, and forget exports without measured
accuracy of those supernets whose images are on this machine now."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy.exc import DBAPIError

from elasticvit.errors import ElasticVitError
from server.compute.exporting.order import Exporter, FindImages, LoadSupernet, Order
from server.compute.task import Compute, Stopped
from server.errors import Conflict, ServerError
from server.services import models, supernets

log = structlog.get_logger()
LOOK_SECONDS = 1.0


def warm(compute: Compute, exporter: Exporter, stop: threading.Event) -> None:
    """Wait for a default supernet, then load it. An error is logged only: the jobs that need the supernet report it."""
    folder = compute.settings.supernets_folder
    while not stop.is_set():
        try:
            with compute.database.read() as session:
                default = supernets.ref(supernets.resolve(session, None), folder)
            _do(compute, exporter, LoadSupernet(default), stop)
            with compute.database.read() as session:
                unmeasured = [supernets.ref(row, folder) for row in models.with_unmeasured(session)]
            for ref in unmeasured:
                _do(compute, exporter, FindImages(ref), stop)
            return
        except Conflict:
            stop.wait(LOOK_SECONDS)  # no supernet is registered yet
        except Stopped:
            return
        except (ElasticVitError, ServerError, DBAPIError) as error:
            log.warning("a supernet could not be loaded in advance", why=str(error))
            return


def _do(compute: Compute, exporter: Exporter, order: Order[bool], stop: threading.Event) -> None:
    if exporter.run(order, _UntilStop(stop)):
        with compute.database.write() as session:
            models.forget_unmeasured(session, order.supernet.name)


class _UntilStop:
    """A watch that ends the order when the worker stops."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def stage(self, name: str) -> None:
        del name

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped

"""Before anybody asks: the exporter loads the default supernet, and what was exported without images is forgotten where
they are at hand now."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy.exc import DBAPIError

from elasticvit.errors import ElasticVitError
from server.compute.exporting.order import Exporter, Order, What
from server.compute.task import Compute, Stopped
from server.errors import Conflict, ServerError
from server.services import models, supernets
from server.store import supernet_file
from server.store.tables import Supernet

log = structlog.get_logger()
LOOK_SECONDS = 1.0


def warm(compute: Compute, exporter: Exporter, stop: threading.Event) -> None:
    """Once there is a default supernet, load it; whatever is wrong with it is told to the jobs that need it."""
    while not stop.is_set():
        try:
            with compute.database.read() as session:
                default = supernets.resolve(session, None)
            _do(compute, exporter, default, "load", stop)
            with compute.database.read() as session:
                others = models.with_unmeasured(session)
            for row in others:
                _do(compute, exporter, row, "images", stop)
            return
        except Conflict:
            stop.wait(LOOK_SECONDS)  # not there yet
        except Stopped:
            return
        except (ElasticVitError, ServerError, DBAPIError) as error:
            log.warning("a supernet could not be looked at beforehand", why=str(error))
            return


def _do(compute: Compute, exporter: Exporter, row: Supernet, what: What, stop: threading.Event) -> None:
    file = supernets.path(row, compute.settings.supernets_folder)
    order = Order(what, row.name, file, row.sha256, table_sha256=supernet_file.table_sha256(file))
    if exporter.run(order, _Until(stop)).images:
        with compute.database.write() as session:
            models.forget_unmeasured(session, row.name)


class _Until:
    """Nobody is told of stages; the end of the worker is the end of the work."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def stage(self, name: str) -> None:
        del name

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped

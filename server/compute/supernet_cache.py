"""Supernets by name for compute jobs; headers and accuracy tables of the last few are kept in memory."""

from __future__ import annotations

import threading

from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.task import Compute
from server.services import supernets
from server.store.supernet_file import SupernetRef

MAX_SUPERNETS = 2


class SupernetCache:
    """Supernets by name, for all threads of a worker."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._served: dict[SupernetRef, ServedSupernet] = {}

    def get(self, name: str | None) -> ServedSupernet:
        """The supernet, None for the default one, as its files are now. Raises NotFound, Conflict."""
        with self._compute.database.read() as session:
            ref = supernets.ref(supernets.resolve(session, name), self._compute.settings.supernets_folder)
        with self._lock:
            served = self._served.setdefault(ref, ServedSupernet(ref))
            while len(self._served) > MAX_SUPERNETS:
                del self._served[next(iter(self._served))]
            return served

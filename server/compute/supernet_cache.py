"""Supernets by name for compute jobs; headers and accuracy tables of those used last are kept in memory."""

from __future__ import annotations

import threading

from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.lru_cache import LruCache
from server.compute.task import Compute
from server.services import supernets
from server.store.supernet_file import SupernetRef

MAX_SUPERNETS = 2


class SupernetCache:
    """Supernets by name, for all threads of a worker."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._served: LruCache[SupernetRef, ServedSupernet] = LruCache(MAX_SUPERNETS)

    def get(self, name: str | None) -> ServedSupernet:
        """The supernet, None for the default one, as its files are now. Raises NotFound, Conflict."""
        with self._compute.database.read() as session:
            ref = supernets.ref(supernets.resolve(session, name), self._compute.settings.supernets_folder)
        with self._lock:
            return self._served.get(ref, lambda: ServedSupernet(ref))

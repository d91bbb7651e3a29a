"""Supernets by name for compute jobs; headers and accuracy tables of those used last are kept in memory."""

from __future__ import annotations

import threading

from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.lru_cache import LruCache
from server.compute.task import Compute
from server.errors import Conflict
from server.services import supernet_damage, supernets
from server.store.supernet_file import SupernetRef

MAX_SUPERNETS = 2


class SupernetCache:
    """Supernets by name, for all threads of a worker."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._served: LruCache[SupernetRef, ServedSupernet] = LruCache(MAX_SUPERNETS)

    def get(self, name: str | None) -> ServedSupernet:
        """The supernet, None for the default one, as its files are now. Raises NotFound; Conflict, also when they are
        not what was registered."""
        folder = self._compute.settings.supernets_folder
        with self._compute.database.read() as session:
            row = supernets.resolve(session, name)
        if (damage := supernet_damage.of(row, folder)) is not None:
            raise Conflict(damage.sentence)
        ref = supernets.ref(row, folder)
        with self._lock:
            return self._served.get(ref, lambda: ServedSupernet(ref))

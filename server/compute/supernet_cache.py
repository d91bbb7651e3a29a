"""Supernets by name for compute jobs: what their headers and tables say, kept for the last few."""

from __future__ import annotations

import threading

from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.task import Compute
from server.services import supernets
from server.store import supernet_file

KEPT = 2


class SupernetCache:
    """Supernets by name for executions, in any thread; keeps what it read of the last few."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._kept: dict[ServedSupernet, ServedSupernet] = {}

    def get(self, name: str | None) -> ServedSupernet:
        """As it is now, its table too. Raises NotFound, Conflict."""
        with self._compute.database.read() as session:
            row = supernets.resolve(session, name)
        path = supernets.path(row, self._compute.settings.supernets_folder)
        wanted = ServedSupernet(row.name, row.sha256, path, supernet_file.table_sha256(path))
        with self._lock:
            found = self._kept.setdefault(wanted, wanted)
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
            return found

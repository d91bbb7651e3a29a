"""Supernets at hand: loaded once a file, with their images and what is known of their sub-networks' accuracy."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elasticvit.accuracy_table import AccuracyPredictor, AccuracyTable, fit_accuracy
from elasticvit.nn.files import LoadedSuperNet, load_supernet
from elasticvit.space import Space
from elasticvit.training.data import ImageSet, load_named
from server.errors import InfraError
from server.services import supernets
from server.tables import Supernet
from server.task import Compute

KEPT = 2


@dataclass(frozen=True)
class AtHand:
    """A loaded supernet; `name` and `sha256` are those of its row."""

    name: str
    sha256: str
    net: LoadedSuperNet
    table: AccuracyTable

    @property
    def space(self) -> Space:
        return self.net.space

    @cached_property
    def images(self) -> ImageSet:
        """The images that recalibrate and evaluate. Raises DataError where they cannot be had."""
        return load_named(self.net.card.data)

    @cached_property
    def accuracy(self) -> AccuracyPredictor:
        return fit_accuracy(self.table)


class Stock:
    """Loads supernets for executions, in any thread; keeps the last few."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._kept: dict[str, AtHand] = {}

    def get(self, name: str | None) -> AtHand:
        """Raises NotFound, Conflict, SupernetFileError, InfraError."""
        with self._compute.database.read() as session:
            row = supernets.resolve(session, name)
        with self._lock:
            if row.sha256 not in self._kept:
                self._kept[row.sha256] = self._load(row)
                while len(self._kept) > KEPT:
                    del self._kept[next(iter(self._kept))]
            return self._kept[row.sha256]

    def _load(self, row: Supernet) -> AtHand:
        path = supernets.path(row, self._compute.settings.supernets_folder)
        net = load_supernet(path)
        return AtHand(row.name, row.sha256, net, AccuracyTable.load(accuracy_file(path)))


def accuracy_file(supernet: Path) -> Path:
    """Where the evaluated sub-networks of a supernet file are kept. Raises InfraError."""
    path = supernet.with_suffix(".accuracy.jsonl")
    if not path.is_file():
        raise InfraError(f"{path} is missing: evaluate the supernet's sub-networks by `elasticvit prepare`")
    return path

"""Supernets at hand: loaded once a file, with their images, where they can be had, and what is known of their
sub-networks' accuracy."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog

from elasticvit.accuracy import as_trained, known_accuracy
from elasticvit.accuracy_table import AccuracyPredictor, AccuracyTable, fit_accuracy
from elasticvit.errors import DataError
from elasticvit.nn.files import LoadedSuperNet, load_supernet
from elasticvit.nn.net import Net
from elasticvit.space import Space
from elasticvit.training.data import ImageSet, load_named
from server.errors import InfraError
from server.services import supernets
from server.tables import Supernet
from server.task import Compute
from server.wire import Accuracy

log = structlog.get_logger()
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
    def images(self) -> ImageSet | None:
        """The images that evaluate, and recalibrate where the file carries none; None where they cannot be had."""
        try:
            return as_trained(self.net, load_named(self.net.card.data))
        except DataError as error:
            log.info("accuracies are predicted, not measured", supernet=self.name, why=str(error))
            return None

    @cached_property
    def accuracy(self) -> AccuracyPredictor:
        return fit_accuracy(self.table)

    def judge(self, net: Net) -> Accuracy:
        """Accuracy of a recalibrated sub-network: as it stands in the table, else measured, else predicted."""
        known = known_accuracy(net, self.space, self.table, self.images, self.accuracy)
        return Accuracy() if known is None else Accuracy(value=known.value, source=known.source)


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
        raise InfraError(f"{path} is missing: evaluate sub-networks by `elasticvit tabulate {supernet} --n 600`")
    return path

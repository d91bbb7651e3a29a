"""A supernet as a worker needs it: space, terms and accuracy table of its file, without the weights. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from elasticvit.accuracy.predictor import AccuracyPredictor, fit_accuracy
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.archs.space import Space
from elasticvit.nn.supernet_header import SupernetHeader, table_path
from server.errors import InfraError
from server.store.supernet_file import SupernetRef, describe


@dataclass(frozen=True)
class ServedSupernet:
    """What a supernet file's header and accuracy table say; read once, when first asked for."""

    ref: SupernetRef

    @property
    def name(self) -> str:
        return self.ref.name

    @cached_property
    def header(self) -> SupernetHeader:
        """Raises BadValue."""
        return describe(self.ref.file)

    @property
    def space(self) -> Space:
        return self.header.space

    @property
    def terms(self) -> str | None:
        terms: str | None = self.header.card.get("terms")
        return terms

    @property
    def has_table(self) -> bool:
        return table_path(self.ref.file).is_file()

    @cached_property
    def table(self) -> AccuracyTable:
        """The evaluated sub-networks. Raises InfraError when the file is missing."""
        if not self.has_table:
            raise InfraError(
                f"{table_path(self.ref.file)} is missing: evaluate sub-networks by "
                f"`elasticvit tabulate {self.ref.file} --n 600`"
            )
        return AccuracyTable.load(table_path(self.ref.file), self.space)

    @cached_property
    def accuracy(self) -> AccuracyPredictor:
        return fit_accuracy(self.table)

"""Supernets at hand: what a file's header and table tell, and, for the process that exports, the loaded weights and
the images, where they can be had. Nothing here brings torch before weights or images are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from elasticvit.accuracy.predictor import AccuracyPredictor, fit_accuracy
from elasticvit.accuracy.table import AccuracyTable, table_path
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import Space
from elasticvit.errors import DataError
from server.errors import Conflict, InfraError
from server.store import supernet_file
from server.store.blobs import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from elasticvit.archs.arch import Arch
    from elasticvit.data.image_set import ImageSet
    from elasticvit.export.quantize.calibration_set import CalibrationSet
    from elasticvit.nn.net import Net
    from elasticvit.nn.supernet_file import LoadedSuperNet

log = structlog.get_logger()
SIDES_KEPT = 2
# What a file is, whatever its table says.
LOADED = ("net", "images", "calibration_set", "_sized")


@dataclass(frozen=True)
class ServedSupernet:
    """A supernet file; `name` and `sha256` are those of its row, `table_sha256` is of the table beside it, None where
    there is none."""

    name: str
    sha256: str
    file: Path
    table_sha256: str | None = None

    @cached_property
    def described(self) -> supernet_file.Description:
        """Raises BadValue."""
        return supernet_file.describe(self.file)

    @property
    def space(self) -> Space:
        return self.described.space

    @property
    def terms(self) -> str | None:
        terms: str | None = self.described.card.get("terms")
        return terms

    @cached_property
    def table(self) -> AccuracyTable:
        """Raises InfraError where there is none."""
        return AccuracyTable.load(accuracy_file(self.file))

    @cached_property
    def accuracy(self) -> AccuracyPredictor:
        return fit_accuracy(self.table)

    @cached_property
    def net(self) -> LoadedSuperNet:
        """The weights. Raises SupernetFileError."""
        from elasticvit.nn.supernet_file import load_supernet

        return load_supernet(self.file)

    @cached_property
    def images(self) -> ImageSet | None:
        """The images that evaluate, and recalibrate where the file carries none; None where they cannot be had."""
        from elasticvit.accuracy.evaluate import as_trained
        from elasticvit.data.image_set import load_named

        try:
            return as_trained(self.net, load_named(self.net.card.data))
        except DataError as error:
            log.info("accuracies are predicted, not measured", supernet=self.name, why=str(error))
            return None

    @cached_property
    def calibration_set(self) -> CalibrationSet | None:
        """The images on which other precisions are tried; None where there are none at all."""
        from elasticvit.export.quantize.calibration_set import calibration_set_of

        return calibration_set_of(self.net, self.images)

    def deployed(self, arch: Arch) -> Net:
        """The sub-network, recalibrated (`elasticvit.accuracy.evaluate.calibrated`). Raises SpaceError, DataError."""
        from elasticvit.accuracy.evaluate import recalibrate

        return recalibrate(self.net.extract(arch), self._calibration_at(arch.resolution))

    def _calibration_at(self, side: int) -> Tensor:
        """The calibration images as networks of that side see them: to enlarge them takes a third of recalibrating."""
        from elasticvit.accuracy.evaluate import calibration_images
        from elasticvit.nn.net import sized

        images = self._sized.pop(side, None)
        if images is None:
            images = sized(calibration_images(self.net, self.images), side)
        self._sized[side] = images
        while len(self._sized) > SIDES_KEPT:
            del self._sized[next(iter(self._sized))]
        return images

    @cached_property
    def _sized(self) -> dict[int, Tensor]:
        """Of the sides that were used last, the latest at the end."""
        return {}

    @property
    def as_stored(self) -> bool:
        """Whether no image can recalibrate, so that networks keep the norms of the file and their accuracy is
        unknown."""
        return self.net.calibration is None and self.images is None

    def with_table(self, file: Path, table_sha256: str | None) -> ServedSupernet:
        """The same weights in `file`, with the table beside that as it is now; nothing is loaded again."""
        other = replace(self, file=file, table_sha256=table_sha256)
        vars(other).update({name: vars(self)[name] for name in LOADED if name in vars(self)})
        return other

    def load(self) -> None:
        """Load all that an export needs. Raises SupernetFileError, Conflict where the file is not the one known."""
        net = self.net
        if file_sha256(self.file) != self.sha256:
            raise Conflict(
                f"{self.file} is not the file that supernet '{self.name}' was registered with: put that back, or "
                "register this one under another name by `elasticvit supernets add`"
            )
        if net.calibration is not None or self.images is not None:
            log.info("loaded a supernet", supernet=self.name)
        else:
            log.warning("norms stay as stored and accuracies are unknown: no images can be had", supernet=self.name)

    def known_accuracy(self, net: Net) -> Accuracy | None:
        """Accuracy of a recalibrated sub-network: from the accuracy table, else measured, else predicted; None without
        table and images."""
        from elasticvit.accuracy.evaluate import known_accuracy

        tabled = accuracy_path(self.file).is_file()
        table, fitted = (self.table, self.accuracy) if tabled else (None, None)
        return known_accuracy(net, self.space, table, self.images, fitted)


def accuracy_path(supernet: Path) -> Path:
    return table_path(supernet)


def accuracy_file(supernet: Path) -> Path:
    """Where the evaluated sub-networks of a supernet file are kept. Raises InfraError."""
    path = accuracy_path(supernet)
    if not path.is_file():
        raise InfraError(f"{path} is missing: evaluate sub-networks by `elasticvit tabulate {supernet} --n 600`")
    return path

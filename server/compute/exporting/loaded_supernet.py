"""Supernets in the exporting process: weights and images in memory, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import structlog
from torch import Tensor

from elasticvit.accuracy.evaluate import as_trained, calibration_images, known_accuracy, recalibrate
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError
from elasticvit.export.quantize.calibration_set import CalibrationSet, calibration_set_of
from elasticvit.hashing import file_sha256
from elasticvit.nn.net import Net, sized
from elasticvit.nn.supernet_file import LoadedSuperNet, load_supernet
from server.compute.exporting.served_supernet import ServedSupernet
from server.compute.lru_cache import LruCache
from server.errors import Conflict
from server.store.supernet_file import SupernetRef

log = structlog.get_logger()
MAX_SIDES = 2
MAX_SUPERNETS = 2
LoadImages = Callable[[str], ImageSet]


@dataclass(eq=False)
class Weights:
    """The content of one supernet file, without its accuracy table. `load_images` gives the image set of a name, or
    raises DataError."""

    net: LoadedSuperNet
    load_images: LoadImages
    _sized: LruCache[int, Tensor] = field(default_factory=lambda: LruCache(MAX_SIDES))

    @cached_property
    def images(self) -> ImageSet | None:
        """The images that evaluate networks, and recalibrate them where the file carries none; None when this machine
        does not have them."""
        try:
            return as_trained(self.net, self.load_images(self.net.card.data))
        except DataError as error:
            log.info("accuracies are predicted, not measured", data=self.net.card.data, why=str(error))
            return None

    @cached_property
    def calibration_set(self) -> CalibrationSet | None:
        """The images on which other precisions are tried; None without any images."""
        return calibration_set_of(self.net, self.images)

    @property
    def can_recalibrate(self) -> bool:
        """False when neither the file nor this machine has images: networks then keep the norms of the file, and their
        accuracy is unknown."""
        return self.net.calibration is not None or self.images is not None

    def deployed(self, arch: Arch) -> Net:
        """The recalibrated sub-network (`elasticvit.accuracy.evaluate.recalibrate`). Raises SpaceError, DataError."""
        return recalibrate(self.net.extract(arch), self.calibration_at(arch.resolution))

    def calibration_at(self, side: int) -> Tensor:
        """The calibration images (K, 3, side, side). Those of the last `MAX_SIDES` sides are kept: resizing takes a
        third of the time of a recalibration."""
        return self._sized.get(side, lambda: sized(calibration_images(self.net, self.images), side))


@dataclass(frozen=True, eq=False)
class LoadedSupernet:
    """The weights of a supernet file with its present description and accuracy table."""

    served: ServedSupernet
    weights: Weights

    @staticmethod
    def load(ref: SupernetRef, load_images: LoadImages = load_named) -> LoadedSupernet:
        """Raises SupernetFileError, and Conflict when the file is not the registered one."""
        weights = Weights(load_supernet(ref.file), load_images)
        if file_sha256(ref.file) != ref.sha256:
            raise Conflict(
                f"{ref.file} is not the file that supernet '{ref.name}' was registered with: put that back, or "
                "register this one under another name by `elasticvit supernets add`"
            )
        if weights.can_recalibrate:
            log.info("loaded a supernet", supernet=ref.name)
        else:
            log.warning("no images: norms stay as stored, and accuracies are unknown", supernet=ref.name)
        return LoadedSupernet(ServedSupernet(ref), weights)

    def known_accuracy(self, net: Net) -> Accuracy | None:
        """Top-1 of a recalibrated sub-network, as `elasticvit.accuracy.evaluate.known_accuracy` tells it; None without
        accuracy table and images."""
        served = self.served
        table, predictor = (served.table, served.accuracy) if served.has_table else (None, None)
        return known_accuracy(net, self.weights.net.card, served.space, table, self.weights.images, predictor)


class LoadedSupernets:
    """The supernets that were used last, in memory."""

    def __init__(self, load_images: LoadImages = load_named) -> None:
        self._load_images = load_images
        self._loaded: LruCache[str, LoadedSupernet] = LruCache(MAX_SUPERNETS)

    def get(self, ref: SupernetRef) -> LoadedSupernet:
        """With the accuracy table as it is now; weights are loaded once.

        Raises SupernetFileError, and Conflict when the file is not the registered one.
        """
        loaded = self._loaded.get(ref.sha256, lambda: LoadedSupernet.load(ref, self._load_images))
        if loaded.served.ref != ref:
            loaded = replace(loaded, served=ServedSupernet(ref))
            self._loaded.put(ref.sha256, loaded)
        return loaded

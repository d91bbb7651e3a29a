"""What the exporting process does with an order: extract, recalibrate, judge, write and check; this brings torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.data.image_set import FOLDERS, data_folder
from elasticvit.errors import ExportError
from elasticvit.export.api import export_net
from elasticvit.export.file_kinds import Format
from elasticvit.export.graph.fold import fold
from elasticvit.export.input_form import InputForm
from elasticvit.export.precision import Precision
from elasticvit.export.tflite.check import check
from elasticvit.export.tflite.writer import write_tflite
from elasticvit.latency.profile import FileOp
from elasticvit.nn.net import Net
from elasticvit.nn.supernet_file import read_card
from server.compute.exporting.order import Order, Product
from server.compute.exporting.served_supernet import ServedSupernet
from server.errors import Conflict

KEPT = 2
NOT_THE_STORED = (
    "the stored model is not what its supernet gives now: export it anew by POST /subnets, then convert that"
)
Say = Callable[[str], None]


class LoadedSupernets:
    """The supernets that were used last, loaded."""

    def __init__(self) -> None:
        self._kept: dict[str, ServedSupernet] = {}

    def get(self, order: Order) -> ServedSupernet:
        """Raises SupernetFileError, Conflict where the file is another one than was registered."""
        served = self._kept.pop(order.sha256, None)
        if served is None:
            served = ServedSupernet(order.supernet, order.sha256, order.file, order.table_sha256)
            served.load()
        elif (served.file, served.table_sha256) != (order.file, order.table_sha256):
            served = served.with_table(order.file, order.table_sha256)
        self._kept[order.sha256] = served
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return served


def run_order(order: Order, loaded: LoadedSupernets, say: Say) -> Product:
    """Raises SpaceError, DataError, ExportError, SupernetFileError, PredictorError, ServerError."""
    if order.what == "images":
        return Product(images=_lie_here(read_card(order.file)[1].data))
    say("loading the supernet")
    served = loaded.get(order)
    if order.what == "load":
        return Product(images=served.images is not None)
    assert order.arch is not None
    say("extracting")
    arch = Arch.from_json(order.arch)
    if order.what == "ops":
        return Product(images=False, ops=_ops(write_tflite(fold(served.net.extract(arch))).ops))
    as_cut = not order.recalibrate or served.as_stored
    net = _network(served, arch, as_cut, say)
    if order.what in ("onnx", "pt2"):
        return Product(served.images is not None, _converted(order, served, net, say))
    accuracy = None
    if not as_cut:
        say("judging")
        accuracy = served.known_accuracy(net)
    return _export(order, served, net, accuracy, say)


def _network(served: ServedSupernet, arch: Arch, as_cut: bool, say: Say) -> Net:
    """As it is deployed, or as it is cut where that is asked for or no image could recalibrate."""
    if as_cut:
        return served.net.extract(arch)
    say("calibrating")
    return served.deployed(arch)


def _converted(order: Order, served: ServedSupernet, net: Net, say: Say) -> bytes:
    """The network in another format, once it is known to be the stored model: other norms make it another one, where
    images have come or the code has changed."""
    # Late: converters take a while to load, and most processes never convert.
    from elasticvit.export.converters.convert import other_format

    card = served.net.card
    if order.stored is not None:
        try:
            check(order.stored.read_bytes(), net, InputForm(mean=card.mean, std=card.std), order.seed)
        except ExportError as error:
            raise Conflict(NOT_THE_STORED) from error
    say(f"converting to {order.what}")
    return other_format(net, card, Format(order.what), order.seed)


def _export(order: Order, served: ServedSupernet, net: Net, accuracy: Accuracy | None, say: Say) -> Product:
    say("writing and checking")
    precision = Precision(order.precision)
    exported = export_net(
        net,
        served.net.card,
        supernet_sha256=served.sha256,
        accuracy=accuracy,
        seed=order.seed,
        precision=precision,
        calibration_set=None if precision is Precision.FLOAT32 else served.calibration_set,
    )
    return Product(
        images=served.images is not None if order.recalibrate else False,
        data=exported.tflite,
        manifest=json.loads(exported.manifest.to_json()),
        accuracy=accuracy,
        ops=_ops(exported.ops),
    )


def _lie_here(data: str) -> bool:
    """Whether there is a folder of these images; nothing in it is read. `digits` come with a package."""
    name = data.rpartition("@")[0] or data
    if name == "digits":
        return True
    known = FOLDERS.get(name.partition(":")[0])
    places = [data_folder() / known.folder] if known else [Path(name), data_folder() / name]
    return any(place.is_dir() for place in places)


def _ops(ops: Any) -> tuple[FileOp, ...]:  # noqa: ANN401
    return tuple(FileOp(op.builtin, op.block) for op in ops)


class Here:
    """An exporter in this very process, for tools and tests: what kills an export kills them as well."""

    def __init__(self) -> None:
        self._loaded = LoadedSupernets()

    def run(self, order: Order, watch: Any) -> Product:  # noqa: ANN401
        def say(stage: str) -> None:
            watch.stage(stage)
            watch.check()

        return run_order(order, self._loaded, say)

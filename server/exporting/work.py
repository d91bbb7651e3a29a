"""What the exporting process does with an order: extract, recalibrate, judge, write and check; this brings torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elasticvit.arch import Arch
from elasticvit.export.api import export_net
from elasticvit.export.fold import fold
from elasticvit.export.tflite import write_tflite
from elasticvit.formats import Format
from elasticvit.latency.profile import FileOp
from elasticvit.nn.files import read_card
from elasticvit.nn.net import Net
from elasticvit.precision import Precision
from elasticvit.training.data import FOLDERS, data_folder
from server.execution.stock import AtHand
from server.exporting.order import Order, Product
from server.wire import Accuracy

KEPT = 2
Say = Callable[[str], None]


class Shelf:
    """The supernets that were used last, loaded."""

    def __init__(self) -> None:
        self._kept: dict[str, AtHand] = {}

    def get(self, order: Order) -> AtHand:
        """Raises SupernetFileError, Conflict where the file is another one than was registered."""
        at_hand = self._kept.pop(order.sha256, None)
        if at_hand is None:
            at_hand = AtHand(order.supernet, order.sha256, order.file)
            at_hand.load()
        self._kept[order.sha256] = at_hand
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return at_hand


def do(order: Order, shelf: Shelf, say: Say) -> Product:
    """Raises SpaceError, DataError, ExportError, SupernetFileError, PredictorError, ServerError."""
    if order.what == "images":
        return Product(images=_lie_here(read_card(order.file)[1].data))
    say("loading the supernet")
    at_hand = shelf.get(order)
    if order.what == "load":
        return Product(images=at_hand.images is not None)
    assert order.arch is not None
    say("extracting")
    arch = Arch.from_json(order.arch)
    if order.what == "ops":
        return Product(images=False, ops=_ops(write_tflite(fold(at_hand.net.extract(arch))).ops))
    net, accuracy = _network(at_hand, arch, order.judged, say)
    if order.what in ("onnx", "pt2"):
        # Late: converters take a while to load, and most processes never convert.
        from elasticvit.export.formats import other_format

        say(f"converting to {order.what}")
        return Product(at_hand.images is not None, other_format(net, at_hand.net.card, Format(order.what), order.seed))
    return _export(order, at_hand, net, accuracy, say)


def _network(at_hand: AtHand, arch: Arch, judged: bool, say: Say) -> tuple[Net, Accuracy]:
    """As it is deployed, with its top-1; as it is cut where that is asked for, or where no image could recalibrate."""
    if not judged or at_hand.as_stored:
        return at_hand.net.extract(arch), Accuracy()
    say("calibrating")
    net = at_hand.deployed(arch)
    say("judging")
    return net, at_hand.judge(net)


def _export(order: Order, at_hand: AtHand, net: Net, accuracy: Accuracy, say: Say) -> Product:
    say("writing and checking")
    precision = Precision(order.precision)
    exported = export_net(
        net,
        at_hand.net.card,
        supernet_sha256=at_hand.sha256,
        accuracy=accuracy.value,
        accuracy_source=accuracy.source or "measured",
        seed=order.seed,
        precision=precision,
        trial=None if precision is Precision.FLOAT32 else at_hand.trial,
    )
    return Product(
        images=at_hand.images is not None if order.judged else False,
        data=exported.tflite,
        manifest=json.loads(exported.manifest.to_json()),
        accuracy=accuracy.value,
        accuracy_source=accuracy.source,
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
        self._shelf = Shelf()

    def run(self, order: Order, watch: Any) -> Product:  # noqa: ANN401
        def say(stage: str) -> None:
            watch.stage(stage)
            watch.check()

        return do(order, self._shelf, say)

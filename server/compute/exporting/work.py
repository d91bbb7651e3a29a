"""What the exporting process does with an order: extract, recalibrate, judge, write and check; this brings torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from server.compute.exporting.served_supernet import AtHand
from server.errors import Conflict
from server.wire import Accuracy

KEPT = 2
NOT_THE_STORED = (
    "the stored model is not what its supernet gives now: export it anew by POST /subnets, then convert that"
)
Say = Callable[[str], None]


class Shelf:
    """The supernets that were used last, loaded."""

    def __init__(self) -> None:
        self._kept: dict[str, AtHand] = {}

    def get(self, order: Order) -> AtHand:
        """Raises SupernetFileError, Conflict where the file is another one than was registered."""
        at_hand = self._kept.pop(order.sha256, None)
        if at_hand is None:
            at_hand = AtHand(order.supernet, order.sha256, order.file, order.table_sha256)
            at_hand.load()
        elif (at_hand.file, at_hand.table_sha256) != (order.file, order.table_sha256):
            at_hand = at_hand.with_table(order.file, order.table_sha256)
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
    as_cut = not order.judged or at_hand.as_stored
    net = _network(at_hand, arch, as_cut, say)
    if order.what in ("onnx", "pt2"):
        return Product(at_hand.images is not None, _converted(order, at_hand, net, say))
    accuracy = Accuracy()
    if not as_cut:
        say("judging")
        accuracy = at_hand.judge(net)
    return _export(order, at_hand, net, accuracy, say)


def _network(at_hand: AtHand, arch: Arch, as_cut: bool, say: Say) -> Net:
    """As it is deployed, or as it is cut where that is asked for or no image could recalibrate."""
    if as_cut:
        return at_hand.net.extract(arch)
    say("calibrating")
    return at_hand.deployed(arch)


def _converted(order: Order, at_hand: AtHand, net: Net, say: Say) -> bytes:
    """The network in another format, once it is known to be the stored model: other norms make it another one, where
    images have come or the code has changed."""
    # Late: converters take a while to load, and most processes never convert.
    from elasticvit.export.converters.convert import other_format

    card = at_hand.net.card
    if order.stored is not None:
        try:
            check(order.stored.read_bytes(), net, InputForm(mean=card.mean, std=card.std), order.seed)
        except ExportError as error:
            raise Conflict(NOT_THE_STORED) from error
    say(f"converting to {order.what}")
    return other_format(net, card, Format(order.what), order.seed)


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

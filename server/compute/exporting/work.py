"""What the exporting process does for each kind of order; this imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from elasticvit.progress import Say
from server.compute.exporting.loaded_supernet import LoadedSupernets, Weights
from server.compute.exporting.order import (
    ConvertFile,
    ExportedFile,
    ExportTflite,
    FindImages,
    ListOps,
    LoadSupernet,
    Order,
    Result,
)
from server.errors import Conflict

OTHER_NETWORK = (
    "the supernet no longer gives the network of this model: export its architecture again by POST /subnets, then "
    "convert that model"
)


def run_order(order: Order[Result], loaded: LoadedSupernets, say: Say) -> Result:
    """The order's result; `say` is called with the name of every stage.

    Raises SpaceError, DataError, ExportError, SupernetFileError, PredictorError, ServerError.
    """
    result: Result = WORK[type(order)](order, loaded, say)
    return result


def _export_tflite(order: ExportTflite, loaded: LoadedSupernets, say: Say) -> ExportedFile:
    say("loading the supernet")
    supernet = loaded.get(order.supernet)
    weights, precision = supernet.weights, Precision(order.precision)
    recalibrated = order.recalibrate and weights.can_recalibrate
    net = _network(weights, order.arch, recalibrated, say)
    accuracy = None
    if recalibrated:
        say("evaluating")
        accuracy = supernet.known_accuracy(net)
    say("writing and checking")
    exported = export_net(
        net,
        weights.net.card,
        supernet_sha256=order.supernet.sha256,
        accuracy=accuracy,
        seed=order.seed,
        precision=precision,
        calibration_set=None if precision is Precision.FLOAT32 else weights.calibration_set,
    )
    manifest = json.loads(exported.manifest.to_json())
    return ExportedFile(exported.tflite, manifest, accuracy, order.recalibrate and weights.images is not None)


def _convert_file(order: ConvertFile, loaded: LoadedSupernets, say: Say) -> bytes:
    # Imported late: converters take a while to load, and most processes never convert.
    from elasticvit.export.converters.convert import other_format

    say("loading the supernet")
    weights = loaded.get(order.supernet).weights
    net = _network(weights, order.arch, order.recalibrate and weights.can_recalibrate, say)
    card = weights.net.card
    try:
        check(order.tflite.read_bytes(), net, InputForm(mean=card.mean, std=card.std), order.seed)
    except ExportError as error:
        # Other norms: images have come since the export, or the code has changed.
        raise Conflict(OTHER_NETWORK) from error
    say(f"converting to {order.format}")
    return other_format(net, card, Format(order.format), order.seed)


def _list_ops(order: ListOps, loaded: LoadedSupernets, say: Say) -> tuple[FileOp, ...]:
    say("loading the supernet")
    net = _network(loaded.get(order.supernet).weights, order.arch, False, say)
    return tuple(FileOp(op.builtin, op.block) for op in write_tflite(fold(net)).ops)


def _load_supernet(order: LoadSupernet, loaded: LoadedSupernets, say: Say) -> bool:
    say("loading the supernet")
    return loaded.get(order.supernet).weights.images is not None


def _find_images(order: FindImages, _loaded: LoadedSupernets, _say: Say) -> bool:
    data = read_card(order.supernet.file)[1].data
    name = data.rpartition("@")[0] or data
    if name == "digits":  # they come with scikit-learn
        return True
    image_folder = FOLDERS.get(name.partition(":")[0])
    paths = [data_folder() / image_folder.folder] if image_folder else [Path(name), data_folder() / name]
    return any(path.is_dir() for path in paths)


# The types of order and work agree, which `Mapping` cannot express.
WORK: Mapping[type[Order[Any]], Callable[[Any, LoadedSupernets, Say], Any]] = {
    ExportTflite: _export_tflite,
    ConvertFile: _convert_file,
    ListOps: _list_ops,
    LoadSupernet: _load_supernet,
    FindImages: _find_images,
}


def _network(weights: Weights, arch: Arch, recalibrated: bool, say: Say) -> Net:
    """The sub-network, recalibrated or with the norms of the supernet."""
    say("extracting")
    if not recalibrated:
        return weights.net.extract(arch)
    say("recalibrating")
    return weights.deployed(arch)

"""Export in one call: fold, write, check against torch, describe; then put it on a disk."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch, ConvBlock, ConvStage, VitLayer, VitStage
from elasticvit.atomic import write_files
from elasticvit.costs.flops import macs, params
from elasticvit.errors import ExportError
from elasticvit.export.graph.fold import fold
from elasticvit.export.input_form import InputKind
from elasticvit.export.manifest import (
    AccuracyInfo,
    Description,
    Latency,
    Manifest,
    OutputInfo,
    SupernetInfo,
    data_name,
    describe_input,
    package_versions,
)
from elasticvit.export.model_card import model_card
from elasticvit.export.precision import Precision
from elasticvit.export.quantize.calibration_set import CalibrationSet
from elasticvit.export.quantize.recipe import QuantizationRecipe, recipe_for
from elasticvit.export.quantize.try_precision import as_it_is, try_precision
from elasticvit.export.tflite.check import check, load_tflite
from elasticvit.export.tflite.delegates import coverage, require_whole
from elasticvit.export.tflite.metadata import entries, with_labels
from elasticvit.export.tflite.writer import INPUT, OUTPUT, TfliteOp, write_tflite
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet_file import Card


@dataclass(frozen=True, slots=True)
class Exported:
    """A checked model in memory: the file, its description, and the block of every operator of the file."""

    tflite: bytes
    manifest: Manifest
    ops: tuple[TfliteOp, ...]


def export_net(
    net: Net,
    card: Card | None,
    *,
    supernet_sha256: str | None = None,
    accuracy: Accuracy | None = None,
    seed: int = 0,
    precision: Precision = Precision.FLOAT32,
    recipe: QuantizationRecipe | None = None,
    calibration_set: CalibrationSet | None = None,
    max_accuracy_drop: float | None = None,
    input: InputKind = InputKind.NORMALISED,
    latency: tuple[Latency, ...] = (),
    describe: bool = True,
) -> Exported:
    """The network as a .tflite with its manifest. Writes nothing; the same network gives the same bytes.

    Args:
        card: of the supernet that the weights are from; None for random weights.
        supernet_sha256: of the supernet's file, for the manifest.
        accuracy: of this network, for the manifest; None where it is not known.
        seed: of the images on which file and network are compared.
        precision: of weights and sums. recipe: for dynamic_int8; default: the one that ships for its space.
        calibration_set: images that show int8 its ranges, and held-out ones to measure what a precision costs.
        max_accuracy_drop: the largest loss of top-1 by the precision, a fraction (0 to 1), if the loss is known.
        input: the form in which the file takes its image.
        latency: measured or predicted on devices, for manifest and file.
        describe: whether the file carries its description as metadata.

    Raises:
        ExportError: NaN or infinite weights, training mode; a file that is not the same function, has not the same
            MACs or is not taken by XNNPACK in one piece; a precision that lacks images or costs too much.
    """
    arch = net.arch
    image = describe_input(INPUT, arch.resolution, card, input)
    graph = fold(net, form=image.form)
    if precision is Precision.FLOAT32:
        tried = as_it_is(graph)
    else:
        exact = write_tflite(graph).data
        check(exact, net, image.form, seed)
        recipe = recipe or recipe_for(arch)
        tried = try_precision(
            graph, exact, precision, recipe, calibration_set, card, supernet_sha256, image.form, max_accuracy_drop
        )
    versions = package_versions()
    description = Description(
        arch=json.loads(arch.to_json()),
        arch_id=arch.id,
        macs=macs(arch),
        params=params(arch),
        precision=precision,
        recipe=tried.recipe,
        top1_change=tried.change,
        input=image,
        output=OutputInfo(name=OUTPUT, classes=arch.classes, names=card.class_names if card else None),
        supernet=SupernetInfo(name=card.name, sha256=supernet_sha256, data=data_name(card)) if card else None,
        terms=card.terms if card else None,
        accuracy=None if accuracy is None else AccuracyInfo.of(accuracy),
        latency=latency,
        versions=versions,
        created_by=f"elasticvit {versions['elasticvit']}",
    )
    file = write_tflite(
        tried.graph,
        f"ElasticViT {arch.id}, {precision}",
        tried.number_formats,
        metadata=entries(description) if describe else None,
    )
    data = with_labels(file.data, description.output.names) if describe else file.data
    interpreter = load_tflite(data)
    taken = coverage(data, file.ops, interpreter)
    require_whole(taken)
    distance = tried.distance
    if distance is None:
        distance = check(data, net, image.form, seed, interpreter=interpreter)
    manifest = Manifest(
        **dict(description),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        delegate=taken.summary(),
        max_relative_difference=one_digit_up(distance),
    )
    return Exported(data, manifest, file.ops)


def write_export(exported: Exported, out: Path) -> None:
    """Write the file to `out`, its manifest and its card beside it (`manifest_path`, `card_path`), all or none.

    Raises:
        ExportError: the disk is full or read-only, or the folder is missing; nothing is left behind.
    """
    card = model_card(exported.manifest, out.name)
    files = {manifest_path(out): exported.manifest.to_json(), card_path(out): card}
    write_files({out: exported.tflite} | {path: text.encode() for path, text in files.items()}, error=ExportError)


def manifest_path(out: Path) -> Path:
    """s1.tflite → s1.tflite.manifest.json."""
    return out.with_name(f"{out.name}.manifest.json")


def card_path(out: Path) -> Path:
    """s1.tflite → s1.tflite.card.md."""
    return out.with_name(f"{out.name}.card.md")


@lru_cache(maxsize=1)
def anchor() -> Exported:
    """The anchor: a mid-size network of the small space (10 MMACs) with fixed random weights.

    It is timed in every session on every device, so it must never change: another anchor makes all normalised
    latencies incomparable.
    """
    return export_net(random_net(ANCHOR, seed=0), None, describe=False)


def one_digit_up(value: float) -> float:
    """Rounded up to one significant digit, so that the manifest is the same where the last bits differ."""
    if value == 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit) * unit:.0e}")


def _stage(width: int, depth: int, kernel: int, expand: int) -> ConvStage:
    return ConvStage(width, (ConvBlock(kernel, expand),) * depth)


def _layers(width: int, depth: int, v_scale: int, mlp_ratio: int) -> VitStage:
    return VitStage(width, (VitLayer(v_scale, mlp_ratio),) * depth)


ANCHOR = Arch(
    resolution=64,
    stem=_stage(8, 1, 3, 1),
    conv=(_stage(16, 3, 3, 4), _stage(24, 3, 3, 4)),
    vit=(_layers(48, 2, 2, 3), _layers(64, 2, 3, 3), _layers(96, 2, 3, 3), _layers(112, 2, 3, 3)),
    hidden=512,
    classes=10,
)

"""Export in one call: fold, write, check against torch, describe; then put it on a disk."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elasticvit.arch import Arch, ConvBlock, ConvStage, VitLayer, VitStage
from elasticvit.export.atomic import write_files
from elasticvit.export.check import check
from elasticvit.export.fold import fold
from elasticvit.export.manifest import (
    Accuracy,
    AccuracySource,
    Manifest,
    OutputInfo,
    SupernetInfo,
    describe_input,
    package_versions,
)
from elasticvit.export.randomnet import random_net
from elasticvit.export.tflite import INPUT, OUTPUT, TfliteOp, write_tflite
from elasticvit.flops import macs, params
from elasticvit.nn.files import Card
from elasticvit.nn.net import Net


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
    accuracy: float | None = None,
    accuracy_source: AccuracySource = "measured",
    seed: int = 0,
) -> Exported:
    """The network as a float32 .tflite with its manifest. Writes nothing; the same network gives the same bytes.

    Args:
        card: of the supernet that the weights are from; None for weights from nowhere.
        supernet_sha256: of the supernet's file, for the manifest.
        accuracy, accuracy_source: top-1 of this network, 0 to 1, and how it is known, for the manifest.
        seed: of the images on which file and network are compared.

    Raises:
        ExportError: NaN or infinite weights, training mode, or a file that is not the same function or has not the
            same MACs.
    """
    file = write_tflite(fold(net))
    arch = net.arch
    image = describe_input(INPUT, arch.resolution, card)
    difference = check(file.data, net, image.range, seed)
    versions = package_versions()
    manifest = Manifest(
        sha256=hashlib.sha256(file.data).hexdigest(),
        size_bytes=len(file.data),
        arch=json.loads(arch.to_json()),
        arch_id=arch.id,
        macs=macs(arch),
        params=params(arch),
        input=image,
        output=OutputInfo(name=OUTPUT, classes=arch.classes, names=card.class_names if card else None),
        supernet=SupernetInfo(name=card.name, sha256=supernet_sha256) if card else None,
        terms=card.terms if card else None,
        accuracy=None if accuracy is None else Accuracy(value=accuracy, source=accuracy_source),
        max_relative_difference=_one_digit_up(difference),
        versions=versions,
        created_by=f"elasticvit {versions['elasticvit']}",
    )
    return Exported(file.data, manifest, file.ops)


def write_export(exported: Exported, out: Path) -> None:
    """Write the file to `out` and its manifest beside it (`manifest_path`), both or neither.

    Raises:
        ExportError: the disk is full or read-only, or the folder is missing; nothing is left behind.
    """
    write_files({out: exported.tflite, manifest_path(out): exported.manifest.to_json().encode()})


def manifest_path(out: Path) -> Path:
    """s1.tflite → s1.tflite.manifest.json."""
    return out.with_name(f"{out.name}.manifest.json")


@lru_cache(maxsize=1)
def anchor() -> Exported:
    """The anchor: a mid-size network of the small space (10 MMACs) with fixed random weights.

    It is timed in every session on every device, so it must never change: another anchor makes all normalised
    latencies incomparable.
    """
    return export_net(random_net(ANCHOR, seed=0), None)


def _one_digit_up(value: float) -> float:
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

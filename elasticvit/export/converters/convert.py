"""The same network as a file of another kind, or by another converter, checked against torch like the direct writer's.

These are of a network as torch has it: float32, channels first, normalised by the caller.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from elasticvit.atomic import write_files
from elasticvit.errors import ExportError
from elasticvit.export.api import Exported, manifest_path, one_digit_up
from elasticvit.export.converters.exported_program import IMAGES
from elasticvit.export.converters.litert_torch import convert, operators
from elasticvit.export.converters.onnx import run_onnx, write_onnx
from elasticvit.export.converters.pt2 import run_pt2, write_pt2
from elasticvit.export.file_kinds import Format
from elasticvit.export.graph.fold import fold
from elasticvit.export.input_form import InputForm
from elasticvit.export.manifest import InputInfo, Manifest, describe_input, package_versions
from elasticvit.export.precision import Precision
from elasticvit.export.tflite.check import ROUNDING_IMAGES, check, require_equal, rounding_error
from elasticvit.export.tflite.delegates import coverage, require_whole
from elasticvit.export.tflite.flatbuffer import with_metadata
from elasticvit.export.tflite.metadata import entries, with_labels
from elasticvit.nn.net import Net
from elasticvit.nn.supernet_file import Card

# Packages besides those of every manifest that decide the bytes.
_PACKAGES = {Format.ONNX: ("onnx", "onnxscript"), Format.PT2: ()}


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A checked file in memory. `max_relative_difference` is of its logits from torch's, the largest."""

    kind: Format
    data: bytes
    max_relative_difference: float


def other_format(net: Net, card: Card | None, kind: Format, seed: int = 0) -> bytes:
    """The network as ONNX or pt2; images (B, 3, side, side), float32, any B → logits (B, classes).

    Takes 5 to 20 s of one core. The same network and card give the same bytes.

    Args:
        card: of the supernet that the weights are from; None for random weights.
        seed: of the images on which file and network are compared.

    Raises:
        ExportError: the extra `convert` is missing; training mode; weights that are not finite, or not float32 on the
            CPU; or the file is not the same function.
    """
    return other_file(net, card, kind, seed).data


def other_file(net: Net, card: Card | None, kind: Format, seed: int = 0) -> OtherFile:
    """Like `other_format`, with the difference from the network."""
    properties = _properties(net, card)
    if kind == Format.ONNX:
        data = write_onnx(net, properties)
    elif kind == Format.PT2:
        data = write_pt2(net, json.dumps(properties, sort_keys=True))
    else:
        raise ExportError(f"{kind} is written by export_net, not as another format")
    return OtherFile(kind, data, check_file(data, net, card, kind, seed))


def other_manifest(manifest: Manifest, file: OtherFile) -> Manifest:
    """The description of a file of another kind, from that of the network's float32 .tflite. `input.shape` is of one
    image; the file takes any number.

    Raises:
        ExportError: the manifest is of another precision.
    """
    if manifest.precision is not Precision.FLOAT32:
        raise ExportError(f"{file.kind} files are float32; describe them by the manifest of a float32 export")
    side, mean, std = manifest.input.shape[1], manifest.input.mean, manifest.input.std
    image = InputInfo(
        name=IMAGES,
        shape=(1, 3, side, side),
        layout="NCHW",
        range=InputForm(mean=mean, std=std).range,
        mean=mean,
        std=std,
    )
    packages = {name: version(name) for name in _PACKAGES[file.kind]}
    return _described(manifest, file, package_versions() | packages, input=image, delegate=None)


def by_litert_torch(net: Net, exported: Exported, seed: int = 0) -> Exported:
    """The same network as `exported`, float32 and normalised by the caller, as litert-torch writes it.

    The answer has no `ops`, for the converter does not tell what block an operator belongs to.

    Raises:
        ExportError: another precision or input; litert-torch is missing or fails; or the file is not the same function
            or not taken by XNNPACK in one piece.
    """
    manifest = exported.manifest
    if manifest.precision is not Precision.FLOAT32:
        raise ExportError(f"litert-torch writes float32 here, not {manifest.precision}; the direct writer writes that")
    converted = convert(fold(net, form=manifest.input.form))
    versions = manifest.versions | {"litert-torch": version("litert-torch")}
    metadata = entries(manifest.model_copy(update={"versions": versions}))
    data = with_labels(with_metadata(converted, metadata), manifest.output.names)
    taken = coverage(data, operators(data))
    require_whole(taken)
    file = OtherFile(Format.TFLITE, data, check(data, net, manifest.input.form, seed))
    return Exported(data, _described(manifest, file, versions, delegate=taken.summary()), ())


def write_other(file: OtherFile, manifest: Manifest, out: Path) -> None:
    """Write the file to `out` and its manifest beside it (`manifest_path`), both or neither.

    Raises:
        ExportError: the disk is full or read-only, or the folder is missing; nothing is left behind.
    """
    write_files({out: file.data, manifest_path(out): manifest.to_json().encode()}, error=ExportError)


def _described(manifest: Manifest, file: OtherFile, versions: dict[str, str], **changed: object) -> Manifest:
    fields = dict(manifest) | changed | {"format": file.kind.value, "versions": versions}
    fields |= {"sha256": hashlib.sha256(file.data).hexdigest(), "size_bytes": len(file.data)}
    fields |= {"max_relative_difference": one_digit_up(file.max_relative_difference)}
    return Manifest.model_validate(fields)


def _properties(net: Net, card: Card | None) -> dict[str, str]:
    """The metadata of the file; lists as JSON."""
    image = describe_input(IMAGES, net.arch.resolution, card)
    properties = {
        "arch_id": net.arch.id,
        "arch": net.arch.to_json(),
        "classes": json.dumps(card.class_names if card else net.arch.classes),
        "input": "red, green, blue, channels first, (pixel / 255 - mean) / std",
        "mean": json.dumps(image.mean),
        "std": json.dumps(image.std),
    }
    if card is not None:
        properties["supernet"] = card.name
    if card is not None and card.terms is not None:
        properties["terms"] = card.terms
    return properties


def check_file(data: bytes, net: Net, card: Card | None, kind: Format, seed: int = 0) -> float:
    """The largest relative l2 difference of a file's logits from the network's, for one image and for two at once.

    Raises:
        ExportError: the difference is more than float32 rounding (`require_equal`), or the runtime refuses the file.
    """
    side = net.arch.resolution
    low, high = describe_input(IMAGES, side, card).range
    rng = np.random.default_rng(seed)

    def draw(count: int) -> NDArray[np.float32]:
        return rng.uniform(low, high, (count, 3, side, side)).astype(np.float32)

    images = draw(2)
    with torch.inference_mode():
        expected = net(torch.from_numpy(images)).double().numpy()
    alone, together = _run(kind, data, images[:1]), _run(kind, data, images)
    return require_equal(
        np.concatenate([alone, together]),
        np.concatenate([expected[:1], expected]),
        lambda: rounding_error(net, torch.from_numpy(draw(ROUNDING_IMAGES))),
        f"the {kind} file's logits differ from the network's",
    )


def _run(kind: Format, data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    if kind == Format.ONNX:
        return run_onnx(data, images)
    return np.asarray(run_pt2(data, torch.from_numpy(images)).numpy())

"""The metadata of a .tflite file, which says how to use it.

Three things, none of which a runtime has to know: model metadata as the public tools for LiteRT files read it (the
entry `TFLITE_METADATA`), the class names as `labels.txt` in a zip behind the model, and the whole description of
`elasticvit.export.manifest` as JSON (the entry `elasticvit`). The zip is stored, not deflated, and bears no dates:
readers map it where it lies, and the same model gives the same bytes.

MediaPipe's image classifier takes files of the input kinds `pixels` and `uint8` as they are, with their labels. Of
`normalised` ones it takes those whose channels have the same mean and deviation; it has no others.

Nothing here imports torch.
"""

import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ai_edge_litert import schema_py_generated as schema
from pydantic import ValidationError

from elasticvit.accuracy.words import in_words
from elasticvit.errors import ExportError
from elasticvit.export.manifest import Description
from elasticvit.export.precision import Precision
from elasticvit.export.tflite.metadata_schema import (
    AXIS_LABELS,
    MIN_PARSER_VERSION,
    RGB,
    decode_metadata,
    decode_text,
    encode_metadata,
    is_metadata,
)
from elasticvit.export.tflite.reader import tensor_shape

# The object classes are generated without types.
Generated: TypeAlias = Any

STANDARD, OURS, RUNTIME = "TFLITE_METADATA", "elasticvit", "min_runtime_version"
# What reading a damaged flatbuffer raises; and a damaged zip, in which bz2 raises OSError.
DAMAGE = (struct.error, AttributeError, IndexError, TypeError, ValueError)
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
LABELS = "labels.txt"
BYTE_ORDER_MARK = "\ufeff"
AUTHOR = "ElasticViT"
MODEL_IDENTIFIER = b"TFL3"
_TYPES = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
# The first date that a zip can tell.
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX, _READABLE = 3, 0o100644 << 16


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a file; `dtype` as in "float32". A tensor without a name has "", a scalar the shape ()."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """A file's metadata; each field is None if the file does not have it.

    Attributes:
        inputs, outputs: of the first graph.
        standard: the model metadata, fields named as in its schema.
        labels: class names in the order of the logits, of the file that the model metadata name, else of `labels.txt`.
        unread_labels: why the class names that the file has cannot be read.
        description: written by this package.
        min_runtime_version: the first release of the runtime that has every operator.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    standard: Mapping[str, Any] | None
    labels: tuple[str, ...] | None
    unread_labels: str | None
    description: Description | None
    min_runtime_version: str | None


def entries(description: Description) -> dict[str, bytes]:
    """The metadata of a file, by name; class names are left to `with_labels`."""
    without_names = description.model_dump(mode="json", include=set(Description.model_fields))
    without_names["output"]["names"] = None
    ours = json.dumps(without_names, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {STANDARD: encode_metadata(_standard(description)), OURS: ours.encode()}


def with_labels(data: bytes, names: tuple[str, ...] | None) -> bytes:
    """The file with its class names behind it, one per line; the file as it is where there are none."""
    if names is None:
        return data
    stream = io.BytesIO(data)
    info = zipfile.ZipInfo(LABELS, _NO_DATE)
    info.create_system, info.external_attr = _UNIX, _READABLE
    # Appended, so that offsets count from the start of the model, as readers of such files expect.
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(info, "".join(f"{' '.join(name.splitlines())}\n" for name in names))
    return stream.getvalue()


def read_metadata(data: bytes) -> FileMetadata:
    """The metadata of a .tflite file that this package or another tool wrote.

    Every field of the format that a runtime does without may be missing: names, shapes, buffers of metadata. Texts that
    are not UTF-8 are read as Latin-1.

    Raises:
        ExportError: the bytes are no .tflite file, or are damaged.
    """
    if data[4:8] != MODEL_IDENTIFIER:
        raise ExportError("these bytes are no .tflite file: the identifier TFL3 is missing")
    try:
        model = schema.Model.GetRootAs(data)
        graph = model.Subgraphs(0)
        inputs = tuple(_tensor(graph, graph.Inputs(i)) for i in range(graph.InputsLength()))
        outputs = tuple(_tensor(graph, graph.Outputs(i)) for i in range(graph.OutputsLength()))
        entries = _entries(model, data)
        standard = decode_metadata(entries[STANDARD]) if is_metadata(entries.get(STANDARD, b"")) else None
        labels, unread_labels = _labels(data, [*_label_files(standard or {}), LABELS])
        description = _description(entries[OURS], labels) if entries.get(OURS) else None
    except (*DAMAGE, *ZIP_DAMAGE) as error:
        raise ExportError(f"the .tflite file is damaged or truncated: {error}") from error
    runtime = entries.get(RUNTIME, b"").rstrip(b"\0").decode("ascii", "replace") or None
    return FileMetadata(inputs, outputs, standard, labels, unread_labels, description, runtime)


def _standard(description: Description) -> dict[str, Any]:
    return {
        "name": f"ElasticViT {description.arch_id}",
        "description": _summary(description),
        "version": description.versions["elasticvit"],
        "author": AUTHOR,
        "license": description.terms,
        "min_parser_version": MIN_PARSER_VERSION,
        "subgraph_metadata": [
            {"input_tensor_metadata": [_image(description)], "output_tensor_metadata": [_logits(description)]}
        ],
    }


def _summary(description: Description) -> str:
    source = f"supernet {description.supernet.name}" if description.supernet else "random weights, for timing only"
    text = f"Image classification, {description.output.classes} classes. {description.macs / 1e6:.1f} million"
    text += f" multiply-accumulates, {description.precision}; from {source}."
    if description.accuracy is not None:
        accuracy = description.accuracy
        in_float32 = "" if description.precision is Precision.FLOAT32 else " in float32"
        text += f" Top-1 {accuracy.value:.1%}{in_float32}, {in_words(accuracy)}."
    return text


def _image(description: Description) -> dict[str, Any]:
    form, side = description.input.form, description.input.shape[1]
    mean, std = form.pixel_scale
    low, high = zip(*form.ranges, strict=True)
    return {
        "name": description.input.name,
        "description": f"One image, red, green, blue: {how_to_scale(description)}.",
        "content": {"image": {"color_space": RGB, "default_size": {"width": side, "height": side}}},
        "process_units": [{"normalization": {"mean": mean, "std": std}}],
        "stats": {"min": low, "max": high},
    }


def how_to_scale(description: Description) -> str:
    """What the caller does to pixels, in words."""
    image = description.input
    if image.form.is_pixels:
        return f"pixels from 0 to 255 as {image.dtype}, which the file itself normalises"
    return f"(pixel / 255 - mean) / std with mean {list(image.mean)} and std {list(image.std)}"


def _logits(description: Description) -> dict[str, Any]:
    labels = {"name": LABELS, "description": "Class names, one a line.", "type": AXIS_LABELS}
    return {
        "name": description.output.name,
        "description": "A logit for each class; softmax makes probabilities of them.",
        "content": {"feature": {}},
        "associated_files": [labels] if description.output.names else None,
    }


def _tensor(graph: Generated, index: int) -> TensorInfo:
    if not 0 <= index < graph.TensorsLength():
        raise IndexError(f"there is no tensor {index}")
    tensor = graph.Tensors(index)
    dtype = _TYPES.get(tensor.Type(), f"type {tensor.Type()}")
    return TensorInfo(decode_text(tensor.Name()), dtype, tensor_shape(tensor))


def _entries(model: Generated, data: bytes) -> dict[str, bytes]:
    listed = (model.Metadata(i) for i in range(model.MetadataLength()))
    return {decode_text(entry.Name()): _content(model, entry.Buffer(), data) for entry in listed}


def _content(model: Generated, index: int, data: bytes) -> bytes:
    if not 0 <= index < model.BuffersLength():
        raise IndexError(f"there is no buffer {index}")
    buffer = model.Buffers(index)
    # Files above 2 GB, and those whose writer chose so, hold buffers behind the flatbuffer. Offsets 0 and 1 mean none.
    start, size = buffer.Offset(), buffer.Size()
    if start <= 1 or size == 0:
        return b"" if buffer.DataLength() == 0 else bytes(buffer.DataAsNumpy())
    if start + size > len(data):
        raise IndexError(f"buffer {index} ends at byte {start + size} of {len(data)}")
    return data[start : start + size]


def _label_files(standard: Mapping[str, Any]) -> list[str]:
    """The names of the label files of the first graph's outputs."""
    graph: Mapping[str, Any] = next(iter(standard.get("subgraph_metadata", ())), {})
    files = (file for tensor in graph.get("output_tensor_metadata", ()) for file in tensor.get("associated_files", ()))
    return [file.get("name", "") for file in files if file.get("type") == AXIS_LABELS]


def _labels(data: bytes, names: Sequence[str]) -> tuple[tuple[str, ...] | None, str | None]:
    """The lines of the first of these files that is there, and why they cannot be read."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        return None, None  # most files have none
    with archive:
        name = next((name for name in names if name in archive.namelist()), None)
        if name is None:
            return None, None
        try:
            return _lines(decode_text(archive.read(name))), None
        except RuntimeError as error:  # zipfile's error for encryption and for methods that this Python lacks
            return None, f"{name} in the file's zip cannot be read: {error}"


def _lines(text: str) -> tuple[str, ...]:
    """Not `splitlines`, which also splits at characters that a name may have, such as U+2028."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    return tuple(re.split(r"\r?\n", re.sub(r"\r?\n\Z", "", text))) if text else ()


def _description(entry: bytes, labels: tuple[str, ...] | None) -> Description | None:
    try:
        description = Description.model_validate_json(entry)
    except ValidationError as error:
        raise ExportError(
            f"the file's entry {OURS} is not of this version of the package: {error.error_count()} fields do not fit;"
            " read the file with the version that wrote it, or export it again"
        ) from error
    return description.model_copy(update={"output": description.output.model_copy(update={"names": labels})})

"""Files that other writers made: whatever LiteRT runs is described."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

from elasticvit.archs.space import small
from elasticvit.cli.app import app
from elasticvit.cli.describe import described
from elasticvit.errors import ExportError
from elasticvit.export import export_net
from elasticvit.export.tflite.metadata import LABELS, RUNTIME, STANDARD, FileMetadata, read_metadata
from elasticvit.export.tflite.metadata_schema import AXIS_LABELS, encode_metadata
from elasticvit.export.tflite.reader import tflite_macs
from elasticvit.nn.random_net import random_net

Model = Any  # the object classes are generated without types


def _tensor(name: str | bytes | None, shape: list[int] | None) -> Model:
    tensor = schema.TensorT()
    tensor.name, tensor.type = name, schema.TensorType.FLOAT32
    tensor.shape = None if shape is None else np.array(shape, np.int32)
    return tensor


def _model() -> Model:
    """y = -x over (1, 8)."""
    code, operator, graph, model = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.NEG
    code.version = 1
    operator.inputs, operator.outputs = np.array([0], np.int32), np.array([1], np.int32)
    graph.tensors, graph.operators = [_tensor("x", [1, 8]), _tensor("y", [1, 8])], [operator]
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([1], np.int32)
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    return model


def _packed(model: Model) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _add_metadata(model: Model, name: str | bytes | None, data: bytes | None) -> Model:
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = None if data is None else np.frombuffer(data, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return buffer


def _no_names(model: Model) -> None:
    for tensor in model.subgraphs[0].tensors:
        tensor.name = None


def _no_shapes(model: Model) -> None:
    for tensor in model.subgraphs[0].tensors:
        tensor.shape = None


def _latin_names(model: Model) -> None:
    model.subgraphs[0].tensors[1].name = "café".encode("latin-1")
    model.subgraphs[0].name = model.description = "modèle".encode("latin-1")
    _add_metadata(model, "données".encode("latin-1"), b"\xff")


def _metadata_of_no_bytes(model: Model) -> None:
    for name, data in ((STANDARD, b""), (RUNTIME, None), ("elasticvit", b""), (None, b"1")):
        _add_metadata(model, name, data)


def _metadata_of_another_kind(model: Model) -> None:
    _add_metadata(model, STANDARD, b"not a flatbuffer at all")


def _several_graphs(model: Model) -> None:
    model.subgraphs.append(_model().subgraphs[0])


def _old_operator_code(model: Model) -> None:
    code = model.operatorCodes[0]
    code.builtinCode, code.version = 0, 1


def _only_outputs(model: Model) -> None:
    graph = model.subgraphs[0]
    constant = schema.BufferT()
    constant.data = np.arange(8, dtype=np.float32).view(np.uint8)
    model.buffers.append(constant)
    graph.tensors[0].buffer, graph.inputs = 1, None


@pytest.mark.parametrize(
    "change",
    [
        _no_names,
        _no_shapes,
        _latin_names,
        _metadata_of_no_bytes,
        _metadata_of_another_kind,
        _several_graphs,
        _old_operator_code,
        _only_outputs,
    ],
)
def test_a_file_that_litert_runs_is_described(change: Callable[[Model], None], tmp_path: Path) -> None:
    model = _model()
    change(model)
    data = _packed(model)
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.invoke()
    metadata = read_metadata(data)
    assert [tensor.dtype for tensor in metadata.outputs] == ["float32"]
    assert metadata.standard is None and metadata.description is None
    assert tflite_macs(data) == 0
    (tmp_path / "model.tflite").write_bytes(data)
    result = CliRunner().invoke(app, ["describe", str(tmp_path / "model.tflite")])
    assert result.exit_code == 0 and len(json.loads(result.stdout)["outputs"]) == 1


def _read(change: Callable[[Model], object]) -> FileMetadata:
    model = _model()
    change(model)
    return read_metadata(_packed(model))


def test_what_is_missing_is_empty() -> None:
    assert [tensor.name for tensor in _read(_no_names).inputs] == [""]
    assert [tensor.shape for tensor in _read(_no_shapes).outputs] == [()]
    assert _read(_latin_names).outputs[0].name == "café"
    assert _read(_only_outputs).inputs == ()
    assert _read(_metadata_of_no_bytes).min_runtime_version is None


def _external(data: bytes, size: int) -> bytes:
    """A file with `data` as model metadata behind the flatbuffer, whose buffer has `size` bytes."""
    buffer_offset = 4096
    model = _model()
    buffer = _add_metadata(model, STANDARD, None)
    buffer.offset, buffer.size = buffer_offset, size
    return _packed(model).ljust(buffer_offset, b"\0") + data


def test_metadata_behind_the_flatbuffer_is_read() -> None:
    values = encode_metadata({"name": "another", "author": "somebody"})
    metadata = read_metadata(_external(values, len(values)))
    assert metadata.standard == {"name": "another", "author": "somebody"}
    with pytest.raises(ExportError, match="damaged or truncated: buffer 1 ends at byte"):
        read_metadata(_external(values, len(values))[:-1])


def with_labels(names: bytes, method: int) -> bytes:
    stream = io.BytesIO(_packed(_model()))
    with zipfile.ZipFile(stream, "a", method) as archive:
        archive.writestr(LABELS, names)
    return stream.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_labels_are_an_export_error(method: int) -> None:
    names = np.random.default_rng(0).bytes(400).hex().encode()
    data = with_labels(names, method)
    assert read_metadata(data).labels == (names.decode(),)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry = archive.getinfo(LABELS)
    # Behind the local header of a zip entry, and behind the version that starts an LZMA stream, which nobody reads.
    start = entry.header_offset + 30 + len(LABELS) + 2
    for at in range(start, start + entry.compress_size - 2, 7):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        with pytest.raises(ExportError, match="damaged or truncated"):
            read_metadata(bytes(damaged))


def _with_header_byte(data: bytes, local_at: int, central_at: int, value: int) -> bytes:
    """A zip whose last entry has another value in a byte of both of its headers."""
    changed = bytearray(data)
    for signature, at in ((b"PK\x03\x04", local_at), (b"PK\x01\x02", central_at)):
        changed[changed.rindex(signature) + at] = value
    return bytes(changed)


def test_labels_that_are_not_utf8() -> None:
    assert read_metadata(with_labels("café\nthé\n".encode("latin-1"), zipfile.ZIP_DEFLATED)).labels == ("café", "thé")


@pytest.mark.parametrize(
    ("offsets", "value", "reason"),
    [((6, 8), 0x01, "encrypted"), ((6, 8), 0x20, "patched"), ((8, 10), 97, "compression")],
)
def test_labels_that_cannot_be_read_have_a_reason(offsets: tuple[int, int], value: int, reason: str) -> None:
    """Encrypted, a patch, or compressed by a method that Python lacks (97: WavPack): the model itself is sound."""
    data = _with_header_byte(with_labels(b"cat\n", zipfile.ZIP_STORED), *offsets, value)
    metadata = read_metadata(data)
    assert metadata.labels is None and metadata.unread_labels is not None
    assert LABELS in metadata.unread_labels and reason in metadata.unread_labels
    shown = described(data)
    assert shown["labels"] is None and shown["unread_labels"] == metadata.unread_labels
    assert described(with_labels(b"cat\n", zipfile.ZIP_STORED))["unread_labels"] is None


def _with_label_files(files: dict[str, bytes], associated: list[tuple[str, int]]) -> bytes:
    """A file of another tool: label files by name, and those (name, type) that the output tensor's metadata name."""
    values = {"associated_files": [{"name": name, "type": kind} for name, kind in associated]}
    model = _model()
    _add_metadata(model, STANDARD, encode_metadata({"subgraph_metadata": [{"output_tensor_metadata": [values]}]}))
    stream = io.BytesIO(_packed(model))
    with zipfile.ZipFile(stream, "a") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_labels_are_lines_without_a_byte_order_mark() -> None:
    text = "\ufeffcat\r\nsea\u2028lion\nsea\x0bhorse\x85\x1c\n\nlast"
    labels = read_metadata(with_labels(text.encode(), zipfile.ZIP_STORED)).labels
    assert labels == ("cat", "sea\u2028lion", "sea\x0bhorse\x85\x1c", "", "last")
    assert read_metadata(with_labels(b"", zipfile.ZIP_STORED)).labels == ()


@pytest.mark.parametrize("name", ["labelmap.txt", "assets/labels.txt"])
def test_the_metadata_name_the_label_file(name: str) -> None:
    files = {"labels.txt": b"wrong", "values.txt": b"wrong", name: b"cat\ndog\n"}
    data = _with_label_files(files, [("values.txt", 3), (name, AXIS_LABELS)])
    assert read_metadata(data).labels == ("cat", "dog")


def test_labels_txt_is_read_where_the_metadata_name_no_file_that_exists() -> None:
    files = {"labels.txt": b"cat\n", "values.txt": b"wrong"}
    for associated in ([], [("values.txt", 3)], [("gone.txt", AXIS_LABELS)]):
        assert read_metadata(_with_label_files(files, associated)).labels == ("cat",)
    assert read_metadata(_with_label_files({"values.txt": b"wrong"}, [("values.txt", 3)])).labels is None


@pytest.mark.medium
def test_macs_of_a_file_with_old_operator_codes() -> None:
    data = export_net(random_net(small().smallest(), seed=0), None, describe=False).tflite
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    for code in model.operatorCodes:
        code.builtinCode = 0
    assert tflite_macs(_packed(model)) == tflite_macs(data) > 0

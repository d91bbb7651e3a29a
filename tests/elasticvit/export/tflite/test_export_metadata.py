"""A file's metadata: the standard schema, labels in a zip, and our JSON; the same bytes every time."""

import json
import mmap
import struct
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.space import small
from elasticvit.cli.app import app
from elasticvit.cli.describe import described
from elasticvit.errors import ExportError
from elasticvit.export import Exported, InputKind, anchor, export_net
from elasticvit.export.manifest import Description, Latency
from elasticvit.export.tflite.check import TOLERANCE, check
from elasticvit.export.tflite.flatbuffer import with_metadata
from elasticvit.export.tflite.metadata import OURS, STANDARD, entries, read_metadata, with_labels
from elasticvit.export.tflite.metadata_schema import decode_metadata, encode_metadata
from elasticvit.export.tflite.runtime_version import min_runtime_version
from elasticvit.nn.net import Net
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet_file import Card
from server.services.tflite_upload import describe as checked_by_the_server

NAMES = ("Katze", "köpek", "two\nlines", *"defghij")
CARD = Card("tiny", NAMES, "/a/private/folder/digits", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), terms="no resale")
ACCURACY = Accuracy.measured(0.5, 1000, independent=True)
LATENCY = Latency(device="pixel4", predicted_ms=2.0, lower_ms=1.5, upper_ms=2.5, confidence=0.9, measured_ms=1.9)


@pytest.fixture(scope="module")
def net() -> Net:
    return random_net(small().smallest(), seed=3)


@pytest.fixture(scope="module")
def exported(net: Net) -> Exported:
    return _exported(net)


@pytest.fixture(scope="module")
def bare(net: Net) -> bytes:
    return export_net(net, CARD, describe=False).tflite


def _exported(net: Net) -> Exported:
    return export_net(net, CARD, supernet_sha256="ab" * 32, accuracy=ACCURACY, latency=(LATENCY,))


def test_a_files_metadata_equals_its_manifest(exported: Exported) -> None:
    metadata = read_metadata(exported.tflite)
    assert metadata.labels == ("Katze", "köpek", "two lines", *"defghij")
    assert metadata.description is not None
    description, manifest = metadata.description.model_dump(), exported.manifest.model_dump()
    description["output"]["names"] = NAMES  # a label is one line
    assert description == {name: manifest[name] for name in Description.model_fields}
    assert description["latency"] == (LATENCY.model_dump(),) and description["supernet"]["sha256"] == "ab" * 32
    assert description["terms"] == "no resale" and metadata.description.read_arch() == small().smallest()


def test_the_standard_part(exported: Exported) -> None:
    standard = read_metadata(exported.tflite).standard
    assert standard is not None
    assert (standard["license"], standard["min_parser_version"]) == ("no resale", "1.0.0")
    said = "measured on 1,000 images that were used for no choice (95 % interval 46.9 to 53.1 %)"
    assert f"Top-1 50.0%, {said}." in standard["description"]
    (graph,) = standard["subgraph_metadata"]
    (image,), (logits,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert (image["name"], logits["name"]) == ("images", "logits")
    assert image["content"] == {"image": {"color_space": 1, "default_size": {"width": 32, "height": 32}}}
    (unit,) = image["process_units"]
    assert unit["normalization"]["mean"] == pytest.approx([127.5, 102.0, 76.5])
    assert unit["normalization"]["std"] == pytest.approx([51.0, 63.75, 127.5])
    assert image["stats"]["min"] == pytest.approx([-2.5, -1.6, -0.6])
    assert image["stats"]["max"] == pytest.approx([2.5, 2.4, 1.4])
    assert [(file["name"], file["type"]) for file in logits["associated_files"]] == [("labels.txt", 2)]


def test_the_fields_lie_where_the_schema_puts_them(exported: Exported) -> None:
    # By the numbers of metadata_schema.fbs and none of our code, so that a wrong number in both directions shows.
    model = schema.Model.GetRootAs(exported.tflite)
    names = [model.Metadata(i).Name() for i in range(model.MetadataLength())]
    assert names == [b"TFLITE_METADATA", b"elasticvit", b"min_runtime_version"]
    data: bytes = model.Buffers(model.Metadata(0).Buffer()).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"

    def word(at: int) -> int:
        return int(struct.unpack_from("<I", data, at)[0])

    def field(table: int, number: int) -> int:
        vtable = table - int(struct.unpack_from("<i", data, table)[0])
        offset = int(struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0])
        assert offset, f"field {number} is missing"
        return table + offset

    def table(parent: int, number: int) -> int:
        at = field(parent, number)
        return at + word(at)

    def first(parent: int, number: int) -> int:
        at = table(parent, number) + 4
        return at + word(at)

    def text(parent: int, number: int) -> bytes:
        at = table(parent, number)
        return data[at + 4 : at + 4 + word(at)]

    def floats(parent: int, number: int) -> list[float]:
        at = table(parent, number)
        return list(struct.unpack_from(f"<{word(at)}f", data, at + 4))

    root = word(0)
    strings = [text(root, number) for number in (0, 1, 2, 4, 5, 7)]
    assert strings[0] == f"ElasticViT {exported.manifest.arch_id}".encode() and strings[1].startswith(b"Image class")
    assert strings[2:] == [exported.manifest.versions["elasticvit"].encode(), b"ElasticViT", b"no resale", b"1.0.0"]
    graph = first(root, 3)
    image, logits = first(graph, 2), first(graph, 3)
    assert (text(image, 0), text(logits, 0)) == (b"images", b"logits")
    assert text(image, 1).startswith(b"One image") and text(logits, 1).startswith(b"A logit")
    content = table(image, 3)
    properties, size = table(content, 1), table(table(content, 1), 1)
    assert (data[field(content, 0)], data[field(properties, 0)]) == (2, 1)  # ImageProperties, RGB
    assert (word(field(size, 0)), word(field(size, 1))) == (32, 32)
    assert data[field(table(logits, 3), 0)] == 1  # FeatureProperties
    unit, stats = first(image, 4), table(image, 5)
    assert data[field(unit, 0)] == 1  # NormalizationOptions
    assert floats(table(unit, 1), 0) == [127.5, 102.0, 76.5] and floats(table(unit, 1), 1) == [51.0, 63.75, 127.5]
    assert floats(stats, 0) == pytest.approx([2.5, 2.4, 1.4]) and floats(stats, 1) == pytest.approx([-2.5, -1.6, -0.6])
    labels = first(logits, 6)
    assert (text(labels, 0), data[field(labels, 2)]) == (b"labels.txt", 2)  # TENSOR_AXIS_LABELS
    assert text(labels, 1).startswith(b"Class names")


@pytest.mark.parametrize("kind", [InputKind.PIXELS, InputKind.UINT8])
def test_a_file_that_normalises_asks_for_no_normalisation(kind: InputKind, net: Net) -> None:
    description = described(export_net(net, CARD, input=kind).tflite)
    assert description["normalisation"] == {"mean": [0.0] * 3, "std": [1.0] * 3}
    assert description["inputs"][0]["dtype"] == ("uint8" if kind is InputKind.UINT8 else "float32")


def test_the_same_network_gives_the_same_bytes(exported: Exported, net: Net) -> None:
    assert _exported(net).tflite == exported.tflite


def test_a_file_does_not_tell_where_it_was_written(exported: Exported) -> None:
    assert b"private" not in exported.tflite
    assert exported.manifest.supernet is not None and exported.manifest.supernet.data == "digits"


def test_metadata_adds_a_few_kilobytes_and_changes_no_output(exported: Exported, bare: bytes, net: Net) -> None:
    assert 0 < len(exported.tflite) - len(bare) < 4096
    assert check(exported.tflite, net, exported.manifest.input.form) <= TOLERANCE
    results = []
    for data in (bare, exported.tflite):
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        images = np.linspace(-2, 2, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)
        results.append(interpreter.get_signature_runner("serving_default")(images=images)["logits"])
    assert np.array_equal(*results)


def test_zip_tools_server_and_maps_take_the_file(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(exported.tflite)
    with zipfile.ZipFile(path) as archive:
        (info,) = archive.infolist()
        assert archive.testzip() is None
        # Stored, so that a reader may map the labels where they lie.
        assert (info.filename, info.compress_type, info.date_time) == (
            "labels.txt",
            zipfile.ZIP_STORED,
            (1980, 1, 1, 0, 0, 0),
        )
        assert archive.read("labels.txt").decode().split("\n")[:2] == ["Katze", "köpek"]
    assert checked_by_the_server(path)["inputs"][0]["shape"] == [1, 32, 32, 3]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert read_metadata(mapped[:]).labels is not None
    assert Interpreter(model_path=str(path)).get_signature_list()


def test_no_names_no_labels(net: Net) -> None:
    result = export_net(net, None)
    metadata = read_metadata(result.tflite)
    assert metadata.labels is None and metadata.standard is not None
    (logits,) = metadata.standard["subgraph_metadata"][0]["output_tensor_metadata"]
    assert "associated_files" not in logits and "license" not in metadata.standard


def test_the_anchor_has_no_metadata() -> None:
    metadata = read_metadata(anchor().tflite)
    assert (metadata.standard, metadata.labels, metadata.description, metadata.min_runtime_version) == (None,) * 4


@pytest.mark.medium
def test_a_file_of_another_writer_is_described(bare: bytes, exported: Exported, net: Net) -> None:
    description = read_metadata(exported.tflite).description
    assert description is not None
    data = with_labels(with_metadata(bare, entries(exported.manifest)), NAMES)
    assert read_metadata(data).description == description
    assert with_metadata(data, {"note": b"1"}) == with_metadata(with_metadata(data, {"note": b"2"}), {"note": b"1"})
    assert check(data, net, exported.manifest.input.form) <= TOLERANCE
    model = schema.Model.GetRootAs(data)
    starts = [
        b._tab.Vector(b._tab.Offset(4)) for b in map(model.Buffers, range(model.BuffersLength())) if b.DataLength()
    ]
    assert len(starts) > 50 and all(start % 16 == 0 for start in starts)


def test_values_survive_the_schema() -> None:
    values: dict[str, Any] = {
        "name": "é",
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [
                    {"content": {"feature": {}}, "stats": {"min": [-1.5], "max": []}},
                    {"content": {"image": {"default_size": {"width": 4_000_000_000}}}, "name": ""},
                ]
            },
            {},
        ],
    }
    assert decode_metadata(encode_metadata(values)) == values
    with pytest.raises(ValueError, match="M001"):
        decode_metadata(b"\0" * 16)


@pytest.mark.parametrize("keep", [0, 4, 100, 2000])
def test_bytes_that_are_no_model_are_refused(exported: Exported, keep: int) -> None:
    with pytest.raises(ExportError, match=r"no \.tflite file|damaged or truncated"):
        read_metadata(exported.tflite[:keep])


def test_a_damaged_description_is_refused(bare: bytes) -> None:
    with pytest.raises(ExportError, match="the file's entry elasticvit is not of this version"):
        read_metadata(with_metadata(bare, {OURS: b'{"arch": 1}'}))
    with pytest.raises(ExportError, match="damaged"):
        read_metadata(with_metadata(bare, {STANDARD: b"\xff\xff\xff\x7fM001"}))


def test_the_release_that_has_every_operator(exported: Exported) -> None:
    # BATCH_MATMUL is the newest operator used; litert-torch writes the same release for the same network.
    assert read_metadata(exported.tflite).min_runtime_version == "2.3.0"
    assert min_runtime_version([("CONV_2D", 1), ("HARD_SWISH", 1)]) == "1.15.0"
    assert min_runtime_version([("ADD", 1), ("MUL", 2)]) == "1.14.0"
    assert min_runtime_version([("CONV_2D", 1), ("CONV_2D", 99)]) is None
    assert min_runtime_version([]) is None


def _run(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


def test_describe_command(exported: Exported, bare: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(exported.tflite)
    (tmp_path / "bare.tflite").write_bytes(bare)
    status, shown, _ = _run("describe", tmp_path / "model.tflite")
    description = json.loads(shown)
    assert status == 0
    assert description["arch_id"] == small().smallest().id and description["precision"] == "float32"
    assert description["accuracy"] == {**asdict(ACCURACY), "images": 1000}
    assert description["latency"][0]["measured_ms"] == 1.9
    assert description["labels"][0] == "Katze"
    assert description["normalisation"]["std"] == pytest.approx([51.0, 63.75, 127.5])
    assert description["inputs"] == [{"name": "images", "dtype": "float32", "shape": [1, 32, 32, 3]}]
    status, shown, _ = _run("describe", tmp_path / "bare.tflite")
    description = json.loads(shown)
    assert status == 0 and description["outputs"][0]["shape"] == [1, 10]
    assert description["arch"] is None and description["labels"] is None and description["normalisation"] is None


def test_describe_command_refuses(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    status, _, stderr = _run("describe", tmp_path / "text")
    assert status == 2 and "the identifier TFL3 is missing" in stderr
    status, _, stderr = _run("describe", tmp_path / "missing")
    assert status == 2 and "No such file" in stderr


@pytest.mark.medium
def test_reading_needs_no_torch() -> None:
    code = "import sys, elasticvit.export.tflite.metadata, elasticvit.export.model_card; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""A file that costs more than its size is refused, or looked at in a moment; honest ones are described."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.errors import BadValue, Busy, InfraError
from server.services import tflite_reader, tflite_upload
from server.services.tflite_reader import MAX_MANIFEST_BYTES, Refused, describe
from tests.server.server_farm import tiny_tflite
from tests.server.services.hostile_tflite import shared_tflite


def test_a_file_is_described() -> None:
    shown = describe(tiny_tflite())
    assert shown == {
        "inputs": [{"name": "x", "type": "float32", "shape": [1, 4]}],
        "outputs": [{"name": "y", "type": "float32", "shape": [1, 4]}],
        "operators": 1,
    }
    assert describe(shared_tflite(inputs=3))["inputs"] == [{"name": "in", "type": "float32", "shape": [1]}] * 3


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        ({"subgraphs": 2000, "tensors": 2000}, "graphs"),
        ({"tensors": 1_000_000}, "tensors"),
        ({"operators": 1_000_000}, "operators"),
        ({"inputs": 3000}, "inputs"),
        ({"inputs": 200, "name": b"n" * 1000}, "shorter names"),
        ({"name": b"n" * 100_000}, "longer than 1024 bytes"),
        ({"rank": 1000}, "dimensions"),
    ],
)
def test_more_than_any_network_has_is_refused(shares: dict[str, Any], what: str) -> None:
    with pytest.raises(Refused, match=what):
        describe(shared_tflite(**shares))


def test_work_is_linear_in_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared parts are looked at once: as many reads as a file without sharing of that size may need."""
    reads = 0
    read = tflite_reader._File.read

    def counted(file: Any, position: int, form: str) -> int:  # noqa: ANN401
        nonlocal reads
        reads += 1
        return read(file, position, form)

    monkeypatch.setattr(tflite_reader._File, "read", counted)
    content = shared_tflite(subgraphs=200, tensors=5000, operators=5000, operands=5000)
    describe(content)
    assert reads < len(content)


def test_parts_that_overlap_are_not_looked_at_again_and_again() -> None:
    """Graphs at other positions that name the same vectors: their tables are few, their vectors in all are many."""
    content = bytearray(shared_tflite(subgraphs=200, tensors=20_000))
    graphs = bytes(content).index((200).to_bytes(4, "little")) + 4
    first = graphs + int.from_bytes(content[graphs : graphs + 4], "little")
    vtable = first - int.from_bytes(content[first : first + 4], "little", signed=True)
    tensors = first + 4 + int.from_bytes(content[first + 4 : first + 8], "little")
    for number in range(200):  # a copy of the graph's table, whose tensors are that same vector
        content += bytes(-len(content) % 4)
        copy = len(content)
        content += (copy - vtable).to_bytes(4, "little", signed=True) + content[first + 4 : first + 20]
        slot = graphs + 4 * number
        content[slot : slot + 4] = (copy - slot).to_bytes(4, "little")
        content[copy + 4 : copy + 8] = ((tensors - copy - 4) % 2**32).to_bytes(4, "little")
    with pytest.raises(Refused):
        describe(bytes(content))


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_file_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(Refused):
        describe(tiny_tflite()[:cut])


def test_the_manifest_of_an_upload_is_small() -> None:
    shown = describe(shared_tflite(inputs=200, name=b"n" * 200))
    assert len(str(shown)) < MAX_MANIFEST_BYTES


def test_the_check_is_a_process_with_limits(tmp_path: Path) -> None:
    file = tmp_path / "a.tflite"
    file.write_bytes(tiny_tflite())
    assert tflite_upload.describe(file)["operators"] == 1
    command = [sys.executable, "-I", "-S", tflite_reader.__file__, str(1_000_000), "1"]
    with file.open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, check=False)
    assert done.returncode or b"refused" in done.stdout, "a megabyte is too little for it"


def test_it_imports_the_standard_library_only() -> None:
    code = f"import runpy, sys; runpy.run_path({tflite_reader.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert not {"server", "pydantic", "numpy", "site"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("code", "stderr", "error"),
    [
        (-signal.SIGXCPU, b"", BadValue),
        (-signal.SIGKILL, b"", Busy),
        (1, b"MemoryError", BadValue),
        (1, b"no such file", InfraError),
    ],
)
def test_a_check_that_did_not_end_says_why(code: int, stderr: bytes, error: type[Exception]) -> None:
    done = subprocess.CompletedProcess[bytes]([], code, b"", stderr)
    with pytest.raises(error):
        tflite_upload._answer(done)


def test_the_check_knows_no_secret_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_DATABASE_URL", "postgresql://user:password@nowhere/farm")
    script = tmp_path / "reader.py"
    script.write_text("import json, os; print(json.dumps({'refused': ' '.join(os.environ)}))")
    monkeypatch.setattr(tflite_reader, "__file__", os.fspath(script))
    file = tmp_path / "a.tflite"
    file.write_bytes(b"anything")
    with pytest.raises(BadValue) as refused:
        tflite_upload.describe(file)
    assert "ELASTICVIT" not in refused.value.detail

"""Exports on a disk, and the commands that write them: whole or not at all, errors in a sentence."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from elasticvit import Arch
from elasticvit.archs.published import published
from elasticvit.archs.space import small
from elasticvit.atomic import check_out
from elasticvit.cli.app import app
from elasticvit.errors import ExportError
from elasticvit.export import Exported, Manifest, export_net, manifest_path, write_export
from elasticvit.nn.net import randomise_norms
from elasticvit.nn.random_net import random_net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, save_supernet
from tests.small_disk import small_disk


@pytest.fixture(scope="module")
def exported() -> Exported:
    return export_net(random_net(small().smallest(), seed=0), None)


@pytest.fixture(scope="module")
def supernet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("supernets") / "tiny.safetensors"
    torch.manual_seed(0)
    supernet = SuperNet(small())
    randomise_norms(supernet.net, torch.Generator().manual_seed(1))
    save_supernet(path, supernet, Card("tiny", tuple("0123456789"), "digits"))
    return path


def test_file_and_manifest_are_written(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    out.write_bytes(b"old")
    write_export(exported, out)
    names = ["model.tflite", "model.tflite.card.md", "model.tflite.manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert out.read_bytes() == exported.tflite
    manifest = Manifest.model_validate_json(manifest_path(out).read_text())
    assert manifest.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [0, 1000, 1_000_000])
def test_a_full_disk_leaves_what_was_there(exported: Exported, tmp_path: Path, size: int) -> None:
    out = tmp_path / "model.tflite"
    out.write_bytes(b"old")
    with small_disk(size), pytest.raises(ExportError, match=r"cannot write .*File too large.*nothing was written"):
        write_export(exported, out)
    assert list(tmp_path.iterdir()) == [out] and out.read_bytes() == b"old"


def test_a_manifest_that_cannot_be_written_keeps_the_file_away(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    manifest_path(out).mkdir()
    with pytest.raises(ExportError, match="is a folder; give a file name"):
        write_export(exported, out)
    assert list(tmp_path.iterdir()) == [manifest_path(out)]


def test_what_is_no_file_or_is_read_is_not_written(exported: Exported, tmp_path: Path) -> None:
    pipe, source = tmp_path / "pipe", tmp_path / "source"
    os.mkfifo(pipe)
    source.write_text("precious")
    for out, why in ((pipe, "a device or a pipe"), (Path(), "names no file"), (tmp_path, "a folder")):
        with pytest.raises(ExportError, match=why):
            check_out(out)
    with pytest.raises(ExportError, match="it is one of the inputs"):
        check_out(source, [source])
    with pytest.raises(ExportError, match="a device or a pipe"):
        write_export(exported, pipe)
    done = CliRunner().invoke(app, ["export", "--arch", str(source), "--random-weights", "--out", str(source)])
    assert done.exit_code == 1 and source.read_text() == "precious" and pipe.is_fifo()


@pytest.mark.parametrize("folder", ["/proc", "/nowhere/at/all"])
def test_folders_that_take_no_files(exported: Exported, folder: str) -> None:
    with pytest.raises(ExportError, match="cannot write"):
        write_export(exported, Path(folder) / "model.tflite")


def _run(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.medium
def test_export_command_from_a_supernet(supernet_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.tflite"
    status, shown, _ = _run("export", "--arch", "smallest", "--supernet", supernet_file, "--out", out)
    assert status == 0
    manifest = Manifest.model_validate_json(manifest_path(out).read_text())
    assert manifest.supernet is not None and manifest.supernet.name == "tiny"
    assert manifest.supernet.sha256 == hashlib.sha256(supernet_file.read_bytes()).hexdigest()
    assert manifest.accuracy is not None and manifest.arch_id == small().smallest().id
    assert json.loads(shown)["sha256"] == manifest.sha256


@pytest.mark.parametrize("how", ["json", "10-list", "manifest", "id"])
def test_export_command_finds_the_architecture(how: str, exported: Exported, tmp_path: Path) -> None:
    t0 = published("T0")
    text: dict[str, object] = {"json": json.loads(t0.to_json()), "10-list": t0.to_moonlit()}
    text["manifest"] = {"arch": json.loads(t0.to_json())}
    (tmp_path / "arch.json").write_text(json.dumps(text.get(how)))
    named = t0.id if how == "id" else tmp_path / "arch.json"
    status, shown, _ = _run("flops", "--arch", named)
    assert status == 0 and json.loads(shown)["arch_id"] == t0.id


@pytest.mark.medium
def test_export_command_with_random_weights(tmp_path: Path) -> None:
    out = tmp_path / "t0.tflite"
    status, _, _ = _run("export", "--arch", "T0", "--random-weights", "--out", out)
    assert status == 0
    manifest = Manifest.model_validate_json(manifest_path(out).read_text())
    assert manifest.output.classes == 1000 and manifest.accuracy is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--arch", "S1"], "give either --supernet FILE or --random-weights"),
        (["--arch", "S9", "--random-weights"], "'S9' is not a file, an id or a name"),
        (["--arch", "0123456789ab", "--random-weights"], "no published architecture has the id 0123456789ab"),
        (["--arch", __file__, "--random-weights"], "is not JSON"),
        (["--arch", "S1", "--supernet", "/nowhere.safetensors"], "no supernet file /nowhere.safetensors"),
        (["--arch", "S1", "--random-weights", "--precision", "int4"], "'int4' is not one of"),
    ],
)
def test_export_command_refuses(args: list[str], message: str, tmp_path: Path) -> None:
    status, _, stderr = _run("export", *args, "--out", tmp_path / "out")
    assert status == 2
    assert message in " ".join(stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_export_command_outside_the_space(supernet_file: Path, tmp_path: Path) -> None:
    status, _, stderr = _run("export", "--arch", "S1", "--supernet", supernet_file, "--out", tmp_path / "out")
    assert status == 2 and "resolution = 192 is not in space 'small'" in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_export_command_on_a_disk_that_refuses() -> None:
    status, _, stderr = _run("export", "--arch", "T0", "--random-weights", "--out", "/proc/t0.tflite")
    assert status == 1 and "cannot write /proc/t0.tflite" in stderr


def test_extract_command(supernet_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    status, _, _ = _run("extract", "--arch", "smallest", "--supernet", supernet_file, "--out", out)
    assert status == 0
    with safe_open(out, framework="pt") as file:
        arch = Arch.from_json(file.metadata()["arch"])
        random_net(arch, 0).load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    assert arch == small().smallest()


def test_space_and_flops_commands(supernet_file: Path) -> None:
    status, shown, _ = _run("space", supernet_file)
    assert status == 0 and json.loads(shown)["smallest"]["macs"] == 1_396_368
    status, shown, _ = _run("space", "small", "--sample", "3")
    assert status == 0 and all(small().contains(Arch.from_json(line)) for line in shown.splitlines())
    status, shown, _ = _run("flops", "--arch", "S1", "--blocks")
    answer = json.loads(shown)
    assert sum(block["macs"] for block in answer["blocks"]) == answer["macs"] == 221_549_056

"""Arguments that cannot be right end with a sentence before any work, and destroy nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from elasticvit.accuracy.table import append
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import paper
from elasticvit.cli.app import app
from elasticvit.nn.supernet_header import table_path
from tests.server.supernet_files import supernet_file

NESTED = "[" * 100_000
DIGITS = "9" * 5000


def refused(*arguments: str | Path, saying: str = "") -> None:
    result = invoke(*arguments)
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), (result.output, result.exception)
    assert saying in " ".join(result.output.split()) and "Traceback" not in result.output


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def supernet(tmp_path: Path) -> Path:
    return supernet_file(tmp_path / "tiny.safetensors")


def test_the_input_is_never_the_output(supernet: Path) -> None:
    before = supernet.read_bytes()
    refused("extract", "--arch", "smallest", "--supernet", supernet, "--out", supernet, saying="one of the inputs")
    refused("pack", supernet, "--out", supernet, saying="one of the inputs")
    refused("train", "digits", "--teacher", supernet, "--out", supernet, saying="one of the inputs")
    refused("finetune", supernet.parent, "--supernet", supernet, "--out", supernet, saying="to start from")
    assert supernet.read_bytes() == before


def test_an_output_that_is_a_folder_is_refused_before_the_training(supernet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.safetensors"
    folder.mkdir()
    refused("train", "digits", "--out", folder, saying="folder")
    refused("finetune", "digits", "--supernet", supernet, "--out", folder, saying="folder")
    assert not list(folder.iterdir()) and not list(tmp_path.glob(".*"))


@pytest.mark.medium
def test_a_table_of_another_space_states_no_accuracy(supernet: Path, tmp_path: Path) -> None:
    space = paper()
    codes = space.sample(np.random.default_rng(0), 10)
    table_path(supernet).unlink()
    append(table_path(supernet), space, 100, codes, [0.5] * 10)
    arguments = ("--arch", "smallest", "--supernet", supernet, "--out", tmp_path / "a.tflite")
    refused("export", *arguments, saying="is of another space")
    refused("front", supernet, saying="is of another space")


@pytest.mark.parametrize("level", ["nan", "inf", "-1", "0"])
def test_a_level_is_a_number_of_mflops(level: str, tmp_path: Path) -> None:
    refused("tables", "--out", tmp_path / "tables", "--level", level, saying="a level is a number")


@pytest.mark.medium
def test_a_file_in_place_of_a_folder_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused("tables", "--out", tmp_path / "file", saying="is a file")
    refused("space", tmp_path, saying="it is a folder")
    refused("import-checkpoint", tmp_path / "file", "--from", "moonlit", "--out", tmp_path / "x", saying="is empty")
    board = ("--tensorboard", tmp_path / "file", "--steps", "1")
    refused("train", "digits", "--out", tmp_path / "x.safetensors", *board, saying="TensorBoard")


def test_a_seed_is_not_negative() -> None:
    refused("space", "--sample", "1", "--seed", "-1", saying="--seed")


@pytest.mark.parametrize("text", [NESTED, f'{{"a": {DIGITS}}}', "{"], ids=["nested", "digits", "cut off"])
def test_json_that_cannot_be_read_is_refused(text: str, supernet: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(text)
    refused("flops", "--arch", file, saying="is not JSON")
    export = ("export", "--arch", "smallest", "--supernet", supernet, "--out", tmp_path / "a.tflite")
    refused(*export, "--precision", "dynamic_int8", "--recipe", file, saying="not a recipe")
    table_path(supernet).write_text(f"{text}\n")
    refused(*export, saying="is not an accuracy table")


def test_an_architecture_of_an_editor_that_writes_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "arch.json"
    file.write_text(PUBLISHED["T1"].to_json(), "utf-8-sig")
    result = invoke("flops", "--arch", file)
    assert result.exit_code == 0 and json.loads(result.stdout)["arch_id"] == PUBLISHED["T1"].id

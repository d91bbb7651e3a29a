"""The supernet that ships: taken into a folder whole, never over somebody's own, and chosen by name."""

from pathlib import Path

import pytest

from elasticvit import pretrained
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.errors import DataError, SupernetFileError
from elasticvit.nn.supernet_file import load_supernet
from elasticvit.pretrained.prepare import prepare_default, take_shipped
from tests.server.supernet_files import supernet_file

SHIPPED = sorted(pretrained.FOLDER.glob("*.safetensors"))
MAX_BYTES = 12e6


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_ships_appears_with_its_table(tmp_path: Path) -> None:
    file, messages = supernet_file(tmp_path / "ships.safetensors"), list[str]()
    home = tmp_path / "home"
    for _ in range(2):
        assert take_shipped(file, home, messages.append) == home / "ships.safetensors"
        assert _names(home) == {"ships.safetensors", "ships.accuracy.jsonl"} and messages == []
        assert all((home / name).read_bytes() == (tmp_path / name).read_bytes() for name in _names(home))
    (home / "ships.accuracy.jsonl").unlink()
    take_shipped(file, home)
    assert (home / "ships.accuracy.jsonl").read_bytes() == (tmp_path / "ships.accuracy.jsonl").read_bytes()


def test_what_is_damaged_is_replaced_and_somebodys_own_is_kept(tmp_path: Path) -> None:
    file, home, messages = supernet_file(tmp_path / "ships.safetensors"), tmp_path / "home", list[str]()
    take_shipped(file, home)
    (home / "ships.safetensors").write_bytes(file.read_bytes()[:1000])
    take_shipped(file, home, messages.append)
    assert (home / "ships.safetensors").read_bytes() == file.read_bytes() and messages == []
    own = supernet_file(home / "ships.safetensors", seed=1, table=False).read_bytes()
    take_shipped(file, home, messages.append)
    assert (home / "ships.safetensors").read_bytes() == own
    assert len(messages) == 1 and "remove it" in messages[0]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    file = supernet_file(tmp_path / "ships.safetensors")
    with pytest.raises(SupernetFileError, match="cannot write"):
        take_shipped(file, file)


def test_a_supernet_of_ones_own_is_the_default_by_name(tmp_path: Path) -> None:
    file = supernet_file(tmp_path / "mine.safetensors")
    assert prepare_default(tmp_path, name="mine") == file
    with pytest.raises(DataError, match=r"no supernet 'other' in .*; known: .*digits, mine"):
        prepare_default(tmp_path, name="other")


def test_without_one_that_ships_the_default_is_trained() -> None:
    assert pretrained.default_name() == (pretrained.DEFAULT if pretrained.shipped(pretrained.DEFAULT) else "digits")
    assert pretrained.shipped("digits") is None and pretrained.shipped("../stock/none") is None


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_file_that_ships_has_all_that_users_need(file: Path) -> None:
    """Without its training images: terms, calibration images, a table for searches, and a card."""
    supernet = load_supernet(file)
    assert supernet.card.name == file.stem and supernet.card.terms
    assert supernet.calibration is not None and len(supernet.calibration) >= 64
    table = AccuracyTable.load(file.with_suffix(".accuracy.jsonl"))
    assert table.space == supernet.space and len(table.top1) >= 600
    assert supernet.card.terms in " ".join(file.with_suffix(".md").read_text().split())
    assert sum(path.stat().st_size for path in pretrained.FOLDER.glob(f"{file.stem}.*")) < MAX_BYTES

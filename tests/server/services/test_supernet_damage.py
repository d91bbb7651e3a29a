"""A supernet's files are those that were registered, or it is not served: never other weights under an old name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from elasticvit import pretrained
from elasticvit.accuracy.table import AccuracyTable, append
from elasticvit.nn.supernet_header import table_path
from server.compute.supernet_cache import SupernetCache
from server.errors import BadValue, Conflict
from server.services import models, supernet_damage
from server.settings import Settings
from server.store.tables import Supernet
from server.supervise import bootstrap
from tests.server.compute.exporting_farm import compute_of
from tests.server.server_farm import Farm, problem
from tests.server.store.test_blobs import DAMAGES, truncated
from tests.server.supernet_files import supernet_file

DEFAULT = pretrained.default_name()


def halved(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def a_line_less(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def register(farm: Farm) -> Path:
    file = supernet_file(farm.home / "supernets" / "mine.safetensors")
    bootstrap.register_supernet(farm.database, file, farm.clock)
    return file


def row(farm: Farm, name: str = "mine") -> Supernet:
    with farm.database.read() as session:
        found = session.get(Supernet, name)
    assert found is not None
    return found


@pytest.mark.medium
@pytest.mark.parametrize("damage", [*DAMAGES, halved, Path.unlink])
def test_a_changed_file_is_not_served(any_farm: Farm, damage: Callable[[Path], None]) -> None:
    file, before = register(any_farm), row(any_farm)
    SupernetCache(compute_of(any_farm)).get("mine")
    damage(file)
    with pytest.raises(Conflict, match="supernet 'mine' is not served"):
        SupernetCache(compute_of(any_farm)).get("mine")
    if file.exists():
        with pytest.raises(BadValue, match="supernets add"):
            bootstrap.register_supernet(any_farm.database, file, any_farm.clock)
    with any_farm.database.read() as session:
        assert [found.path for found in supernet_damage.damaged(session, file.parent)] == [file]
    assert row(any_farm) == before


@pytest.mark.medium
@pytest.mark.parametrize("damage", [a_line_less, truncated, halved, Path.unlink])
def test_a_shorter_accuracy_table_is_not_used(any_farm: Farm, damage: Callable[[Path], None]) -> None:
    file = register(any_farm)
    damage(table_path(file))
    with pytest.raises(Conflict, match=r"mine.accuracy.jsonl.*backup"):
        SupernetCache(compute_of(any_farm)).get("mine")
    with pytest.raises(BadValue, match=r"mine.accuracy.jsonl.*backup"):
        bootstrap.register_supernet(any_farm.database, file, any_farm.clock)


@pytest.mark.medium
def test_an_accuracy_table_may_grow(any_farm: Farm) -> None:
    file, before = register(any_farm), row(any_farm)
    table = AccuracyTable.load(table_path(file))
    append(table_path(file), table.space, table.images, table.codes[:1], [0.25])
    SupernetCache(compute_of(any_farm)).get("mine")
    bootstrap.register_supernet(any_farm.database, file, any_farm.clock)
    after = row(any_farm)
    assert (after.sha256, after.table_bytes) == (before.sha256, table_path(file).stat().st_size)
    a_line_less(table_path(file))
    assert supernet_damage.of(after, file.parent) is not None


@pytest.mark.medium
def test_a_table_that_ends_within_a_line_is_refused(farm: Farm, tmp_path: Path) -> None:
    file = supernet_file(tmp_path / "cut.safetensors")
    table = table_path(file)
    table.write_bytes(table.read_bytes()[:-3])
    document = problem(farm.call("POST", "/supernets", json={"path": str(file)}), 422)
    assert "ends within a line" in document["detail"] and "elasticvit tabulate" in document["detail"]


def start(farm: Farm, said: list[str]) -> None:
    """What `elasticvit prepare` does about the default supernet."""
    settings = Settings(home=farm.home)
    file, is_made = bootstrap.default_supernet(farm.database, settings, said.append)
    bootstrap.register_supernets(
        farm.database, settings.supernets_folder, file, said.append, farm.clock, is_made=is_made
    )


@pytest.mark.medium
@pytest.mark.skipif(pretrained.shipped(DEFAULT) is None, reason="no supernet ships")
@pytest.mark.parametrize("damage", [*DAMAGES, halved, Path.unlink])
@pytest.mark.parametrize("path_of", [lambda file: file, table_path])
def test_the_shipped_supernet_is_restored(
    farm: Farm, damage: Callable[[Path], None], path_of: Callable[[Path], Path]
) -> None:
    said: list[str] = []
    start(farm, said)
    assert said == []
    before, file = row(farm, DEFAULT), farm.home / "supernets" / f"{DEFAULT}.safetensors"
    damage(path_of(file))
    start(farm, said)
    assert "is not served" in said[0] and row(farm, DEFAULT) == before
    assert supernet_damage.of(before, file.parent) is None
    SupernetCache(compute_of(farm)).get(None)
    aside = list((file.parent / "damaged").glob("*"))
    assert [path.name for path in aside] == ([] if damage is Path.unlink else [f"{path_of(file).name}.damaged-1"])


@pytest.mark.medium
def test_one_that_this_package_cannot_make_is_refused(farm: Farm) -> None:
    file = register(farm)
    halved(file)
    with pytest.raises(BadValue, match="put back the file"):
        bootstrap.default_supernet(farm.database, Settings(home=farm.home, supernet="mine"), print)
    assert file.is_file(), "it stays for who wants to look at it"


@pytest.mark.medium
@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink])
def test_a_damaged_anchor_is_made_again(any_farm: Farm, damage: Callable[[Path], None]) -> None:
    said: list[str] = []
    bootstrap.keep_anchor(any_farm.database, any_farm.blobs, any_farm.clock, said.append)
    with any_farm.database.read() as session:
        anchor = models.anchor(session)
    assert anchor is not None and said == []
    damage(any_farm.blobs.path(anchor.sha256))
    bootstrap.keep_anchor(any_farm.database, any_farm.blobs, any_farm.clock, said.append)
    assert any_farm.blobs.is_whole(anchor.sha256) and "made again" in said[0]
    with any_farm.database.read() as session:
        assert models.anchor(session) == anchor


def test_an_anchor_of_other_packages_is_told(farm: Farm) -> None:
    """Another anchor would have another reference time."""
    anchor, said = farm.anchor(), list[str]()
    farm.blobs.path(anchor.sha256).unlink()
    bootstrap.keep_anchor(farm.database, farm.blobs, farm.clock, said.append)
    assert "from a backup" in said[0] and not farm.blobs.is_whole(anchor.sha256)

"""A damaged file in the supernets folder never prevents a start: it is set aside and named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from elasticvit.errors import DataError
from elasticvit.nn.supernet_header import table_path
from server.services import supernet_files
from server.settings import Settings
from server.supervise import bootstrap
from tests.server.server_farm import Farm
from tests.server.supernet_files import supernet_file


def cut_off(path: Path) -> None:
    path.write_bytes(supernet_file(path).read_bytes()[:-100])


def offsets_past_the_end(path: Path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,99999999999999999]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def huge_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


def deep_header(path: Path) -> None:
    header = b"[" * 100_000
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def without_permission(path: Path) -> None:
    supernet_file(path)
    path.write_bytes(path.read_bytes()[:-1])
    path.chmod(0)


ODD: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "cut off": cut_off,
    "offsets past the end": offsets_past_the_end,
    "huge header": huge_header,
    "deep header": deep_header,
    "text": lambda path: path.write_text("no supernet"),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": link_to_itself,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "without permission": without_permission,
}


@pytest.mark.medium
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_file_is_set_aside_and_the_others_are_served(odd: Callable[[Path], object], farm: Farm) -> None:
    folder, said = farm.home / "supernets", list[str]()
    good = supernet_file(folder / "good.safetensors")
    odd(folder / "odd.safetensors")
    said += supernet_files.set_damaged_aside(folder)
    bootstrap.register_supernets(farm.database, folder, good, said.append, farm.clock)
    assert [row["name"] for row in farm.ok("GET", "/supernets")["items"]] == ["good"]
    (sentence,) = said
    assert "odd.safetensors" in sentence
    assert not os.path.lexists(folder / "odd.safetensors")
    assert os.path.lexists(folder / "damaged" / "odd.safetensors")
    answer = farm.call("GET", "/readyz?verbose", "viewer")
    assert answer.status_code == 200
    (check,) = (check for check in answer.json()["checks"] if check["name"] == "supernets")
    assert check["state"] == "degraded" and "odd.safetensors" in check["detail"]
    assert supernet_files.set_damaged_aside(folder) == []


@pytest.mark.medium
def test_a_second_file_of_one_name_does_not_replace_the_first_that_was_set_aside(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "odd.safetensors").write_text(content)
        assert len(supernet_files.set_damaged_aside(tmp_path)) == 1
    kept = sorted(path.read_text() for path in (tmp_path / "damaged").glob("*.safetensors"))
    assert kept == ["first", "second"]


@pytest.mark.medium
@pytest.mark.parametrize("table", ["cut off", "a folder", "no text"])
def test_a_supernet_with_a_damaged_accuracy_table_stays_and_is_named(table: str, farm: Farm) -> None:
    folder, said = farm.home / "supernets", list[str]()
    good, bare = (supernet_file(folder / f"{name}.safetensors") for name in ("good", "bare"))
    path = table_path(bare)
    if table == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 3])
    else:
        path.unlink()
        path.mkdir() if table == "a folder" else path.write_bytes(bytes(range(256)))
    assert supernet_files.set_damaged_aside(folder) == []
    bootstrap.register_supernets(farm.database, folder, good, said.append, farm.clock)
    assert bare.is_file()
    assert [row["name"] for row in farm.ok("GET", "/supernets")["items"]] == ["good"], table
    assert len(said) == 1 and "bare" in said[0]
    listed = farm.call("GET", "/readyz?verbose", "viewer").json()["checks"]
    (check,) = (check for check in listed if check["name"] == "supernets")
    assert "bare.safetensors" in check["detail"]


@pytest.mark.medium
@pytest.mark.parametrize("what", ["supernet", "table"])
def test_a_damaged_default_is_named_and_the_service_starts_and_serves_the_others(what: str, farm: Farm) -> None:
    folder, said = farm.home / "supernets", list[str]()
    mine, _ = (supernet_file(folder / f"{name}.safetensors") for name in ("mine", "other"))
    settings = Settings(home=farm.home, supernet="mine")
    bootstrap.prepare_supernets(settings, farm.database, said.append, farm.clock)
    assert said == [] and farm.call("GET", "/readyz", None).status_code == 200
    damaged = mine if what == "supernet" else table_path(mine)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    supernet_file(folder / "later.safetensors")
    bootstrap.prepare_supernets(settings, farm.database, said.append, farm.clock)
    assert any("default" in sentence and "mine" in sentence for sentence in said)
    assert {row["name"] for row in farm.ok("GET", "/supernets")["items"]} == {"mine", "other", "later"}
    if what == "supernet":
        assert farm.call("GET", "/readyz", None).json()["waiting_for"] == ["supernet"]


@pytest.mark.medium
def test_a_default_that_never_was_is_a_wrong_setting(farm: Farm) -> None:
    with pytest.raises(DataError, match="tpyo"):
        bootstrap.prepare_supernets(Settings(home=farm.home, supernet="tpyo"), farm.database, print, farm.clock)

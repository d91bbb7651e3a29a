"""Blobs are what their name says, or they are not served: damaged ones are set aside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from elasticvit.hashing import file_sha256
from server.errors import DamagedFile, NotFound
from server.store import blobs as blobs_module
from server.store.blobs import Blobs
from tests.server.server_farm import Farm, problem, tiny_tflite


def truncated(path: Path) -> None:
    os.truncate(path, 10)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (truncated, flipped, emptied)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_can_be_stored_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(b"some content")
    assert blobs.is_whole(sha256)
    for number in (1, 2):
        damage(blobs.path(sha256))
        with pytest.raises(DamagedFile, match="elasticvit fsck"):
            blobs.find(sha256)
        assert (blobs.damaged_folder / f"{sha256}.damaged-{number}").is_file()
        with pytest.raises(NotFound):
            blobs.find(sha256)
        assert not blobs.is_whole(sha256)
        assert blobs.put(b"some content") == sha256 and blobs.find(sha256).read_bytes() == b"some content"


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(blobs_module, "file_sha256", counted)
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(b"content")
    for _ in range(3):
        blobs.find(sha256)
    assert len(hashed) == 1
    os.utime(blobs.path(sha256), (1, 1))
    blobs.find(sha256)
    blobs.find(sha256)
    assert len(hashed) == 2


def test_a_file_replaced_while_it_was_checked_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("whole")
    blobs_module.set_aside(path, tmp_path / "damaged", inode=1)
    assert path.read_text() == "whole"


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_bytes_are_never_sent(any_farm: Farm, damage: Callable[[Path], None]) -> None:
    content = tiny_tflite()
    made = any_farm.ok("POST", "/models", "user", content=content)
    addresses = (f"/models/{made['id']}/download", f"/blobs/{made['sha256']}")
    for address in addresses:
        assert any_farm.call("GET", address).content == content
    damage(any_farm.blobs.path(made["sha256"]))
    for address in (*addresses, *addresses):
        document = problem(any_farm.call("GET", address), 500, "infra")
        assert "upload it again" in document["detail"] and "elasticvit fsck" in document["detail"]
    assert any_farm.call("GET", addresses[0], headers={"Range": "bytes=0-3"}).status_code == 500
    assert any_farm.call("GET", addresses[0], headers={"If-None-Match": f'"{made["sha256"]}"'}).status_code == 500
    any_farm.upload(content)
    for address in addresses:
        answer = any_farm.call("GET", address)
        assert answer.content == content and answer.headers["etag"] == f'"{made["sha256"]}"'
    part = any_farm.call("GET", addresses[0], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"TFL3")


def test_a_missing_file_is_distinguished_from_an_unknown_one(any_farm: Farm) -> None:
    made = any_farm.ok("POST", "/models", "user", content=tiny_tflite())
    any_farm.blobs.path(made["sha256"]).unlink()
    document = problem(any_farm.call("GET", f"/blobs/{made['sha256']}"), 500, "infra")
    assert made["id"] in document["detail"] and "upload it again" in document["detail"]
    problem(any_farm.call("GET", f"/blobs/{'0' * 64}"), 404)

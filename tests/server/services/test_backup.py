"""A home folder that was copied while it was served, put in its place: as the page "Deploy" says."""

from __future__ import annotations

import errno
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pgserver
import pytest

from elasticvit.progress import silent
from server.errors import BadValue, ServerError
from server.services import backup
from server.services.backup import back_up
from server.settings import Settings
from tests.server.server_farm import Farm, tiny_tflite

PG_BIN = Path(pgserver.__file__).parent / "pginstall" / "bin"


def upload(farm: Farm, number: int) -> str:
    return str(farm.ok("POST", "/models", content=tiny_tflite(float(number)))["id"])


def served_at(home: Path, make_farm: Callable[..., Farm], **settings: Any) -> Farm:  # noqa: ANN401
    """The copy, moved to where the service's home was."""
    place = home.with_name("home")
    shutil.rmtree(place)
    home.rename(place)
    return make_farm(**settings)


def downloads(farm: Farm, model_id: str) -> bytes:
    answer = farm.call("GET", f"/models/{model_id}/download")
    assert answer.status_code == 200
    content: bytes = answer.content
    return content


def test_a_copy_made_under_writes_serves_what_it_lists(make_farm: Callable[..., Farm], tmp_path: Path) -> None:
    farm = make_farm()
    first = upload(farm, 1)
    secret, stop = farm.secret("user"), threading.Event()

    def keep_uploading() -> None:
        number = 2
        while not stop.is_set():
            upload(farm, number)
            number += 1

    writer = threading.Thread(target=keep_uploading)
    writer.start()
    try:
        left_out = back_up(Settings(home=farm.home), tmp_path / "copy", silent)
    finally:
        stop.set()
        writer.join()
    assert left_out == []
    copy = served_at(tmp_path / "copy", make_farm)
    page = copy.client.get("/models", headers={"Authorization": f"Bearer {secret}"}).json()
    assert first in [item["id"] for item in page["items"]]
    assert all(downloads(copy, item["id"]) for item in page["items"])
    upload(copy, 0)


def test_the_copy_of_a_home_is_private_and_holds_its_tokens(farm: Farm, tmp_path: Path) -> None:
    back_up(Settings(home=farm.home), tmp_path / "copy", silent)
    assert (tmp_path / "copy" / "admin.token").read_text() == (farm.home / "admin.token").read_text()
    for name, mode in ((".", 0o700), ("admin.token", 0o600), ("farm.db", 0o600)):
        assert (tmp_path / "copy" / name).stat().st_mode & 0o777 == mode


def test_a_damaged_file_is_named_and_left_out(farm: Farm, tmp_path: Path) -> None:
    model = farm.ok("GET", f"/models/{upload(farm, 1)}")
    blob = farm.blobs.path(model["sha256"])
    blob.write_bytes(b"something else")
    (sentence,) = back_up(Settings(home=farm.home), tmp_path / "copy", silent)
    assert str(blob) in sentence and "damaged" in sentence
    assert not list((tmp_path / "copy" / "blobs").rglob(model["sha256"]))


@pytest.mark.parametrize("place", ["a file", "a full folder", "inside"])
def test_a_copy_never_overwrites_anything(farm: Farm, tmp_path: Path, place: str) -> None:
    target = farm.home / "copy" if place == "inside" else tmp_path / "copy"
    if place == "a file":
        target.write_text("kept")
    elif place == "a full folder":
        target.mkdir()
        (target / "kept").touch()
    with pytest.raises(BadValue):
        back_up(Settings(home=farm.home), target, silent)
    assert not (target / "farm.db").exists()


def test_of_two_backups_into_one_folder_the_second_is_refused(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, refused, copy = tmp_path / "copy", [], backup._copy_database

    def copy_while_another_begins(source: Path, to: Path) -> None:
        monkeypatch.setattr(backup, "_copy_database", copy)
        with pytest.raises(BadValue):
            back_up(Settings(home=farm.home), target, silent)
        refused.append(to)
        copy(source, to)

    monkeypatch.setattr(backup, "_copy_database", copy_while_another_begins)
    target.mkdir()
    assert back_up(Settings(home=farm.home), target, silent) == [] and refused == [target / "farm.db"]
    assert not (target / backup.INCOMPLETE).exists()
    # As if both had seen the empty folder at once.
    (tmp_path / "other").mkdir()
    with backup._claimed(tmp_path / "other"), pytest.raises(BadValue), backup._claimed(tmp_path / "other"):
        pass


def test_a_copy_that_was_not_completed_says_so(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_source: Path, _to: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(backup, "_copy_database", fail)
    with pytest.raises(ServerError):
        back_up(Settings(home=farm.home), tmp_path / "copy", silent)
    assert (tmp_path / "copy" / backup.INCOMPLETE).exists()


@pytest.mark.slow
def test_a_dump_of_postgresql_and_a_copy_of_the_files_are_a_backup(
    make_farm: Callable[..., Farm], tmp_path: Path, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    farm = make_farm(database_url=postgres_url)
    model_id = upload(farm, 1)
    dump = tmp_path / "farm.dump"
    subprocess.run([PG_BIN / "pg_dump", "--format=custom", f"--file={dump}", postgres_url], check=True)
    assert back_up(Settings(home=farm.home, database_url=postgres_url), tmp_path / "copy", silent) == []
    assert not (tmp_path / "copy" / "farm.db").exists()
    lost = upload(farm, 2)

    server = request.getfixturevalue("postgres")
    server.psql("create database restored;")
    url = server.get_uri(database="restored")
    subprocess.run([PG_BIN / "pg_restore", f"--dbname={url}", "--no-owner", dump], check=True)
    copy = served_at(tmp_path / "copy", make_farm, database_url=url)
    assert downloads(copy, model_id) == tiny_tflite(1.0)
    assert copy.call("GET", f"/models/{lost}").status_code == 404
    upload(copy, 3)

"""A damaged database says what to do, at a start and in answers, and nothing is written over it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from server.errors import DamagedDatabase
from server.services.home import prepare
from server.settings import Settings
from server.store.db import Database, from_database_error, migrate, upgrade
from tests.server.server_farm import Farm, problem

PAGE_BYTES = 4096


def serve(home: Path) -> subprocess.CompletedProcess[str]:
    """`elasticvit serve` in a process of its own, for a home with which it cannot start."""
    command = [sys.executable, "-m", "server.cli", "serve"]
    environment = os.environ | {"ELASTICVIT_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def used(make_farm: Callable[..., Farm], tmp_path: Path) -> Path:
    """A home folder that was in use, and is not now."""
    farm = make_farm()
    for number in range(40):
        farm.ok("POST", "/tokens", json={"name": f"token-{number}", "role": "viewer"})
    farm.upload()
    farm.client.__exit__(None, None, None)
    farm.database.close()
    assert not (farm.home / "farm.db-wal").exists()
    return farm.home


def halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def cut(file: Path) -> None:
    os.truncate(file, 1000)


def garbled(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[3 * PAGE_BYTES : 40 * PAGE_BYTES] = os.urandom(len(content[3 * PAGE_BYTES : 40 * PAGE_BYTES]))
    file.write_bytes(content)


def other(file: Path) -> None:
    file.write_text("this is no database" * 1000)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [halved, cut, garbled, other, emptied])
def test_a_start_says_what_to_do(used: Path, damage: Callable[[Path], None]) -> None:
    file = used / "farm.db"
    damage(file)
    before, token = file.read_bytes(), (used / "admin.token").read_text()
    with pytest.raises(DamagedDatabase, match="put a backup in its place"):
        prepare(Settings(home=used), thorough=True)
    assert file.read_bytes() == before and (used / "admin.token").read_text() == token


@pytest.mark.medium
def test_the_command_ends_with_a_sentence(used: Path) -> None:
    garbled(used / "farm.db")
    served = serve(used)
    assert served.returncode == 1 and "put a backup in its place" in served.stderr
    assert "Traceback" not in served.stderr


def test_a_removed_database_is_begun_anew_with_a_line_in_the_log(
    used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (used / "farm.db").unlink()
    prepare(Settings(home=used)).close()
    assert "there was no database" in capsys.readouterr().out
    assert (used / "farm.db").stat().st_mode & 0o777 == 0o600


def test_an_empty_file_in_a_new_home_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "farm.db").write_bytes(b"")
    prepare(Settings(home=tmp_path)).close()


def test_a_value_that_is_no_json_is_a_sentence(any_farm: Farm) -> None:
    model = any_farm.upload()
    if any_farm.database.engine.dialect.name == "postgresql":
        pytest.skip("PostgreSQL checks what goes into a JSON column")
    with any_farm.database.write() as session:
        session.execute(text("UPDATE model SET manifest = '{\"cut'"))
    assert "put a backup" in problem(any_farm.call("GET", f"/models/{model}"), 500, "infra")["detail"]


def test_a_table_that_is_gone_is_a_sentence(any_farm: Farm) -> None:
    with any_farm.database.write() as session:
        session.execute(text("DROP TABLE idempotencykey"))
        session.execute(text("DROP TABLE unalignedsession"))
    with pytest.raises(DBAPIError) as raised, any_farm.database.read() as session:
        session.execute(text("SELECT * FROM idempotencykey"))
    assert isinstance(from_database_error(raised.value), DamagedDatabase)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("", {}, Exception("database disk image is malformed")),
        OperationalError("", {}, Exception("Could not decode to UTF-8 column 'id'")),
        ProgrammingError("", {}, Exception("file is not a database")),
    ],
)
def test_errors_of_damage_are_known(error: DBAPIError) -> None:
    assert isinstance(from_database_error(error), DamagedDatabase)


def test_manifests_without_bound_are_cut_by_the_migration(database_url: str) -> None:
    """Those of uploads: every list of models carries them."""
    database = Database(database_url)
    upgrade(database, "0004")
    columns = "(id, source, sha256, size_bytes, accuracy, manifest, created_at)"
    with database.write() as session:
        for name, source, chars in (("big", "upload", 300_000), ("small", "upload", 100), ("other", "search", 300_000)):
            values = (
                f"('{name}', '{source}', 'x', 1, '{{}}', '{{\"names\": \"{'n' * chars}\"}}', '2026-01-01 00:00:00')"
            )
            session.execute(text(f"INSERT INTO model {columns} VALUES {values}"))
    migrate(database)
    with database.read() as session:
        lengths = dict(session.execute(text("SELECT id, length(CAST(manifest AS TEXT)) FROM model")).all())
    database.close()
    assert lengths["big"] < 200 and lengths["small"] > 100 and lengths["other"] > 300_000

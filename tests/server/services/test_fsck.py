"""`elasticvit fsck` names everything that is wrong in a real home, and changes nothing."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from elasticvit.nn.supernet_header import table_path
from elasticvit.progress import Step
from server.cli import fsck as command
from server.errors import InfraError
from server.services.fsck.check import check
from server.services.fsck.finding import Finding
from server.settings import Settings
from server.supervise import bootstrap
from tests.server.server_farm import Farm, tiny_tflite
from tests.server.supernet_files import supernet_file

OLD_SECONDS = 7200


@pytest.fixture
def home(any_farm: Farm) -> Farm:
    """A home with one of everything."""
    file = supernet_file(any_farm.home / "supernets" / "mine.safetensors")
    bootstrap.register_supernet(any_farm.database, file, any_farm.clock)
    any_farm.predictor("mine")
    any_farm.ok("POST", "/models", params={"name": "of-a-user"}, content=tiny_tflite(3.0))
    bootstrap.ensure_agent_token(any_farm.database, agent_token(any_farm), any_farm.clock)
    return any_farm


def agent_token(farm: Farm) -> Path:
    return farm.home / "agents" / "host" / "agent.token"


def blob(farm: Farm, source: str) -> Path:
    with farm.database.read() as session:
        named = "AND name = 'of-a-user'" if source == "upload" else ""
        table = "predictor" if source == "predictor" else f"model WHERE source = '{source}' {named}"
        return farm.blobs.path(
            str(session.execute(text(f"SELECT sha256 FROM {table} ORDER BY id DESC")).scalars().first())
        )


def uploaded(farm: Farm) -> Path:
    return blob(farm, "upload")


def predictor(farm: Farm) -> Path:
    return blob(farm, "predictor")


def findings(farm: Farm) -> list[Finding]:
    return list(check(farm.state.settings))


def files(farm: Farm) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in sorted(farm.home.rglob("*"))
        if path.is_file() and "farm.db" not in path.name
    }


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def widen(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o044)


def supernet(farm: Farm) -> Path:
    return farm.home / "supernets" / "mine.safetensors"


@pytest.mark.medium
def test_a_whole_home_has_nothing_wrong(home: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    assert findings(home) == []
    capsys.readouterr()
    assert command.run(home.state.settings) == 0
    assert capsys.readouterr().out == f"{home.home}: nothing is lost or damaged\n"


@pytest.mark.medium
@pytest.mark.parametrize(
    ("path_of", "damage", "what", "do"),
    [
        (
            lambda farm: blob(farm, "upload"),
            truncate,
            r"model model-\w+ \(upload, 'of-a-user'\) is damaged",
            "Upload it",
        ),
        (uploaded, Path.unlink, r"model model-\w+ .* is missing", "Upload it again"),
        (lambda farm: blob(farm, "anchor"), append, r"\(anchor\) is damaged", "elasticvit up"),
        (
            lambda farm: blob(farm, "predictor"),
            truncate,
            "version 1 of device 'host' is damaged",
            '"kind": "calibrate"',
        ),
        (supernet, append, "[Ss]upernet 'mine' is not served", "supernets add"),
        (supernet, Path.unlink, "[Ss]upernet 'mine' is not served.*is gone", "Put back"),
        (lambda farm: table_path(supernet(farm)), truncate, "accuracy table .* is cut off", "elasticvit tabulate"),
        (lambda farm: farm.home / "admin.token", truncate, "admin.token holds no token", "Start the service"),
        (lambda farm: farm.home / "admin.token", make_folder, "is a folder", "Move it away"),
        (lambda farm: farm.home / "admin.token", widen, "admin.token can be read or written", "chmod 0600"),
        (lambda farm: farm.home, widen, "can be read or written by other users", "chmod 0700"),
        (agent_token, Path.unlink, "", ""),
        (agent_token, truncate, "agent.token holds no token", "writes a new one"),
        (
            agent_token,
            lambda path: path.write_text("evt_" + "0" * 64),
            "agent.token is not known to the database",
            "elasticvit up",
        ),
    ],
)
def test_each_damage_is_reported_with_what_to_do(
    home: Farm,
    path_of: Callable[[Farm], Path],
    damage: Callable[[Path], object],
    what: str,
    do: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(path_of(home))
    before = files(home)
    found = findings(home)
    assert files(home) == before, "nothing is changed"
    if not what:
        assert found == [], "an agent without a token file is not this home's"
        return
    assert [finding.is_remark for finding in found] == [False]
    capsys.readouterr()
    assert command.run(home.state.settings) == command.EXIT_FOUND
    said = capsys.readouterr().out
    assert re.search(f"problem: .*{what}", said) and do in said and "1 problem found" in said


@pytest.mark.medium
def test_what_killed_processes_left_is_a_remark(home: Farm) -> None:
    orphan = home.blobs.path(home.blobs.put(b"nobody names this"))
    part = home.home / "blobs" / ".part-1-abc"
    part.write_bytes(b"half")
    assert findings(home) == [], "they may belong to a running service"
    long_ago_s = time.time() - OLD_SECONDS
    for path in (orphan, part):
        os.utime(path, (long_ago_s, long_ago_s))
    orphan_found, part_found = findings(home)
    assert orphan.name in str(orphan_found) and part.name in str(part_found)
    assert orphan_found.is_remark and part_found.is_remark
    assert command.run(home.state.settings) == 0


@pytest.mark.medium
def test_files_that_were_set_aside_are_a_remark(home: Farm) -> None:
    path = blob(home, "upload")
    truncate(path)
    assert not home.blobs.is_whole(path.name)
    lost, aside = findings(home)
    assert "is missing" in lost.what and not lost.is_remark
    assert f"{path.name}.damaged-1" in aside.what and aside.is_remark


@pytest.fixture
def stopped(make_farm: Callable[..., Farm]) -> Farm:
    """A home on SQLite that no service uses any more."""
    farm = make_farm()
    for number in range(40):
        farm.ok("POST", "/tokens", json={"name": f"token-{number}", "role": "viewer"})
    farm.upload()
    farm.client.__exit__(None, None, None)
    return farm


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = os.urandom(len(content) - 3 * 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (truncate, "is damaged"),
        (garble, "is damaged"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (Path.unlink, "no database"),
    ],
)
def test_a_damaged_database_is_reported_and_files_are_still_checked(
    stopped: Farm, damage: Callable[[Path], object], what: str
) -> None:
    file = stopped.home / "farm.db"
    (model,) = (path for path in (stopped.home / "blobs").glob("??/*"))
    damage(file)
    before = file.read_bytes() if file.exists() else None
    (found,) = findings(stopped)
    assert what in found.what and "backup" in found.do
    truncate(model)
    assert [what in str(found), model.name in str(findings(stopped)[1])] == [True, True]
    assert (file.read_bytes() if file.exists() else None) == before


def test_rows_without_what_they_belong_to_are_told(farm: Farm) -> None:
    farm.supernet()
    with closing(sqlite3.connect(farm.home / "farm.db")) as connection, connection:
        connection.execute(
            "INSERT INTO modelfile (model_id, format, sha256, size_bytes, created_at) "
            "VALUES ('gone', 'onnx', 'x', 1, '2026-01-01 00:00:00')"
        )
    assert any("belongs to a model that is not there" in finding.what for finding in findings(farm))


def test_rows_that_cannot_be_read_are_told(farm: Farm) -> None:
    farm.upload()
    with farm.database.write() as session:
        session.execute(text("UPDATE model SET manifest = '{\"cut'"))
    (found,) = findings(farm)
    assert "table model cannot be read" in found.what and "backup" in found.do


def test_what_cannot_be_checked_is_an_error(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="no folder"):
        list(check(Settings(home=tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InfraError, match="not the home folder"):
        list(check(Settings(home=tmp_path / "empty")))
    with farm.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(InfraError, match="another version"):
        list(check(farm.state.settings))


def test_bars_appear_when_it_takes_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    for patience_seconds, shown in ((0.0, True), (3600.0, False)):
        with command.late_bars(patience_seconds) as report:
            report(Step("stored files", 1, 2))
            report(Step("stored files", 2, 2))
        assert ("stored files" in capsys.readouterr().err) == shown

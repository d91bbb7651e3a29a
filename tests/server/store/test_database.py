"""Migrations, and homes that cannot be used."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlmodel import SQLModel

from server.errors import (
    DamagedDatabase,
    DatabaseTooNew,
    DiskFull,
    ForeignDatabase,
    InfraError,
    ReadOnlyHome,
    SettingsError,
)
from server.services import claims
from server.services.home import prepare
from server.settings import Settings, load_settings
from server.store.blobs import Blobs
from server.store.db import Database, migrate, upgrade
from server.wire import JobKind
from tests.server.server_farm import Farm, problem, tiny_tflite
from tests.small_disk import forbid_writing, small_disk

NOBODY = 65534


def open_database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'farm.db'}")


def old_home(home: Path) -> None:
    """A home folder as the first version left it, with a job in the queue."""
    home.mkdir()
    database = Database(f"sqlite:///{home / 'farm.db'}")
    upgrade(database, "0001")
    with database.write() as session:
        session.execute(
            text(
                "INSERT INTO job (id, kind, status, payload, attempts, failures, max_attempts, created_at)"
                " VALUES ('job-old', 'calibrate', 'queued', '{}', 0, 0, 3, '2026-01-01 00:00:00')"
            )
        )
    database.close()


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_an_older_home_is_migrated_with_its_data_and_a_copy(tmp_path: Path, make_farm: Callable[..., Farm]) -> None:
    old_home(tmp_path / "home")
    farm = make_farm()
    job = farm.ok("GET", "/jobs/job-old")
    assert job["status"] == "queued" and job["created_at"] == "2026-01-01T00:00:00Z"
    with closing(sqlite3.connect(tmp_path / "home" / "farm.db.before-0001")) as copy:
        assert copy.execute("SELECT id FROM job").fetchall() == [("job-old",)]
        assert "priority" not in [row[1] for row in copy.execute("PRAGMA table_info(job)")]
    with farm.database.write() as session:
        claimed = claims.claim_compute(session, "worker", (JobKind.CALIBRATE,), farm.clock())
    assert claimed is not None and claimed.job.id == "job-old" and claimed.job.priority == 0
    assert not farm.left_behind()


def test_the_present_revision_is_not_copied(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    assert migrate(database) is None
    assert migrate(database) is None
    assert not list(tmp_path.glob("*before*"))


def test_a_migration_that_fails_leaves_the_old_database(tmp_path: Path) -> None:
    old_home(tmp_path / "home")
    database = Database(f"sqlite:///{tmp_path / 'home' / 'farm.db'}")
    with database.write() as session:  # in the way of what the next migration makes, after its first step
        session.execute(text("CREATE TABLE idempotencykey (id TEXT)"))
    with pytest.raises(InfraError):
        migrate(database)
    with database.read() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "0001"
        assert "priority" not in [row[1] for row in session.execute(text("PRAGMA table_info(job)"))]


@pytest.mark.medium
def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    old_home(tmp_path / "home")
    start = Barrier(4)

    def begin(_number: int) -> str | None:
        database = Database(f"sqlite:///{tmp_path / 'home' / 'farm.db'}")
        start.wait()
        return migrate(database)

    with ThreadPoolExecutor(4) as pool:
        copies = [copy for copy in pool.map(begin, range(4)) if copy is not None]
    assert len(copies) == 1


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    migrate(database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match=r"9999.*upgrade"):
        migrate(database)
    with database.read() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "farm.db")) as other:
        other.execute("CREATE TABLE recipes (id TEXT)")
    with pytest.raises(ForeignDatabase):
        migrate(open_database(tmp_path))


def test_a_damaged_database_says_what_to_do(tmp_path: Path) -> None:
    home = Settings(home=tmp_path / "home")
    prepare(home).close()
    file = tmp_path / "home" / "farm.db"
    content = file.read_bytes()
    for damaged in (b"no database at all" * 1000, content[:4096] + b"\xff" * (len(content) - 4096)):
        file.write_bytes(damaged)
        with pytest.raises(DamagedDatabase, match="put a backup in its place"):
            prepare(home)
        assert file.read_bytes() == damaged


def test_the_database_is_in_wal_mode_and_holds_references(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    migrate(database)
    with database.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to write everywhere, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A prepared home that others than its owner may read, outside of pytest's private folder."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    prepare(Settings(home=top / "home")).close()
    yield top / "home"
    shutil.rmtree(top)


def lock_up(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def unlock(home: Path) -> None:
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_home_is_refused_with_what_to_do(open_home: Path) -> None:
    before = sorted(path.name for path in open_home.rglob("*"))
    lock_up(open_home)
    with as_nobody(), pytest.raises(ReadOnlyHome, match="ELASTICVIT_HOME"):
        prepare(Settings(home=open_home))
    unlock(open_home)
    assert sorted(path.name for path in open_home.rglob("*")) == before


def test_a_home_that_cannot_be_made_is_refused(open_home: Path) -> None:
    lock_up(open_home)
    with as_nobody(), pytest.raises(ReadOnlyHome, match="ELASTICVIT_HOME"):
        prepare(Settings(home=open_home / "deeper"))
    unlock(open_home)
    (open_home / "file").write_text("")
    with pytest.raises(InfraError, match="file"):
        prepare(Settings(home=open_home / "file"))


def test_a_home_that_turns_read_only_refuses_uploads(farm: Farm) -> None:
    farm.secret("user")
    forbid_writing(farm.home / "blobs")
    answer = farm.call("POST", "/models", "user", content=tiny_tflite())
    assert answer.status_code in (500, 503) and answer.json()["kind"] == "infra"
    assert farm.ok("GET", "/models")["items"] == []


@pytest.mark.medium
def test_a_full_disk_is_507_with_nothing_left_behind(farm: Farm) -> None:
    farm.secret("user")
    with small_disk(2_000_000):
        answer = farm.call("POST", "/models", "user", content=tiny_tflite() + bytes(3_000_000))
    problem(answer, 507, "infra")
    assert farm.blob_count() == 0 and not farm.left_behind()
    assert farm.ok("GET", "/models")["items"] == []
    assert farm.upload()


@pytest.mark.medium
def test_a_full_disk_under_the_database_is_507(farm: Farm) -> None:
    beat = {"name": "host", "state": "idle"}
    body = {"agent_id": farm.agent(), "devices": [beat]}
    with small_disk(600_000):
        conditions = {str(number): "y" * 19_000 for number in range(24)}
        big = {**body, "devices": [{**beat, "state": "busy", "conditions": conditions}]}
        answer = farm.call("POST", "/agents/heartbeat", "agent", json=big)
    problem(answer, 507, "infra")
    assert farm.ok("GET", "/devices/host")["state"] == "idle"
    farm.ok("POST", "/agents/heartbeat", "agent", json=body)


def test_blobs_are_whole_or_not_there(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    sha256 = blobs.put(b"content")
    assert blobs.find(sha256).read_bytes() == b"content" and blobs.put(b"content") == sha256
    with blobs.draft() as draft:
        draft.write(b"other content")
    with pytest.raises(DiskFull), blobs.draft() as draft:
        draft.write(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [sha256]


@pytest.mark.medium
def test_the_admin_token_is_private_and_survives_restarts(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm()
    file = farm.home / "admin.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = file.read_text()
    make_farm()
    assert file.read_text() == first
    file.unlink()
    again = make_farm()
    assert file.read_text() != first and again.ok("GET", "/tokens")
    assert again.client.get("/tokens", headers={"Authorization": f"Bearer {first.strip()}"}).status_code == 200


@pytest.mark.medium
def test_a_revoked_admin_token_is_replaced(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm()
    first = farm.secret("admin")
    (token,) = farm.ok("GET", "/tokens")["items"]
    farm.ok("DELETE", f"/tokens/{token['id']}")
    again = make_farm()
    assert again.secret("admin") != first and again.ok("GET", "/devices") == {"items": [], "next_page_token": None}


def test_settings_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICVIT_PORT", "a lot")
    monkeypatch.setenv("ELASTICVIT_LEASE_SECONDS", "-3")
    with pytest.raises(SettingsError, match=r"ELASTICVIT_PORT: .*ELASTICVIT_LEASE_SECONDS: "):
        load_settings()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Database(url)

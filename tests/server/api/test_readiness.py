"""/readyz sees what the service lacks, says it to those who may read, and answers in bounded time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pgserver.postgres_server import PostgresServer
from sqlmodel import select

from server.api import sweeper
from server.api.routes import health
from server.services import lease_expiry, presence
from server.store.tables import Predictor
from server.wire.liveness import Liveness
from tests.databases import postgres_server, stop_postgres
from tests.server.server_farm import Farm, problem


def ready(farm: Farm) -> tuple[int, list[str]]:
    answer = farm.call("GET", "/readyz", None)
    return answer.status_code, answer.json()["waiting_for"]


def checks(farm: Farm, role: str | None = "viewer") -> dict[str, dict[str, Any]]:
    answer = farm.call("GET", "/readyz", role, params={"verbose": "true"})
    return {check["name"]: check for check in answer.json()["checks"]}


def alive(farm: Farm, member: presence.Member) -> None:
    with farm.database.write() as session:
        presence.mark(session, member, farm.clock())


def worker() -> presence.Member:
    return presence.Member.of_this_process("worker")


@pytest.fixture
def serving(make_farm: Callable[..., Farm], database_url: str) -> Farm:
    """All is there; no worker was started, and none is expected."""
    farm = make_farm(database_url=database_url)
    farm.supernet()
    farm.predictor()
    assert ready(farm) == (200, [])
    return farm


@pytest.mark.medium
def test_all_checks_are_listed_with_sentences_for_readers_and_without_for_others(serving: Farm) -> None:
    assert serving.call("GET", "/readyz", None).json()["checks"] is None
    named = checks(serving)
    assert {"admin_token", "supernet", "worker", "database", "disk", "sweeper", "predictors", "supernets"} <= set(named)
    assert all(check["state"] == "ok" and check["detail"] for check in named.values())
    for role in (None, "agent"):
        reported = checks(serving, role)
        assert set(reported) == set(named) and all(check["detail"] is None for check in reported.values())
    wrong = serving.client.get("/readyz?verbose", headers={"Authorization": f"Bearer evt_{'0' * 64}"})
    assert wrong.status_code == 200 and all(check["detail"] is None for check in wrong.json()["checks"])


@pytest.mark.medium
def test_a_worker_that_stopped_is_missed_and_one_on_another_machine_counts(serving: Farm) -> None:
    first, second = worker(), worker()
    alive(serving, first)
    assert ready(serving) == (200, [])
    serving.clock.pass_seconds(31)
    assert ready(serving) == (503, ["worker"])
    assert "worker" in checks(serving)["worker"]["detail"]
    alive(serving, second)
    assert ready(serving) == (200, [])


@pytest.mark.medium
@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_makes_a_worker_missing_for_one_mark_only(hours: int, serving: Farm) -> None:
    member = worker()
    alive(serving, member)
    serving.clock.pass_seconds(3600 * hours)
    assert ready(serving) == (503, ["worker"])
    alive(serving, member)
    assert ready(serving) == (200, [])


@pytest.mark.medium
def test_rows_of_workers_long_gone_are_dropped_but_the_last(serving: Farm) -> None:
    for _ in range(3):
        alive(serving, worker())
        serving.clock.pass_seconds(10)
    serving.clock.pass_seconds(2 * presence.FORGET_AFTER.total_seconds())
    serving.state.sweeper.sweep()
    with serving.database.read() as session:
        assert presence.seen(session, "worker", serving.clock(), presence.FORGET_AFTER) == (0, 1)
    assert ready(serving) == (503, ["worker"])


@pytest.mark.medium
@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_lost_file_of_the_predictor_of_this_machine_is_seen(how: str, make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(expect_host=True)
    farm.supernet()
    predictor_id = farm.predictor()
    member = worker()
    alive(farm, member)
    assert ready(farm) == (200, [])
    with farm.database.read() as session:
        row = session.get(Predictor, predictor_id)
    assert row is not None
    path = farm.blobs.path(row.sha256)
    kept = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(kept[:-1] + b"X")
    assert ready(farm) == (503, ["host_predictor"])
    detail = checks(farm)["host_predictor"]["detail"]
    assert predictor_id in detail and "calibrate" in detail
    path.write_bytes(kept)
    assert ready(farm) == (200, [])


@pytest.mark.medium
def test_a_lost_file_of_another_devices_predictor_is_reported_and_not_fatal(serving: Farm) -> None:
    with serving.database.read() as session:
        (sha256,) = {row.sha256 for row in session.exec(select(Predictor))}
    serving.blobs.path(sha256).unlink()
    assert ready(serving) == (200, [])
    assert checks(serving)["predictors"]["state"] == "degraded"


@pytest.mark.medium
def test_a_host_that_is_gone_is_missed_after_it_was_ready(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(expect_host=True)
    farm.supernet()
    farm.predictor()
    member = worker()
    alive(farm, member)
    assert ready(farm) == (200, [])
    farm.clock.pass_seconds(60)
    alive(farm, member)
    assert ready(farm) == (503, ["host_idle"])


@pytest.mark.medium
def test_a_disk_without_space_is_seen(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm(min_free_mb=1e9)
    assert "disk" in ready(farm)[1]
    assert "MB are free" in checks(farm)["disk"]["detail"]


@pytest.mark.medium
def test_a_sweep_that_fails_or_hangs_is_seen_and_goes_on(serving: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    again = threading.Event()
    calls: list[int] = []

    def fail(*_: object) -> int:
        calls.append(1)
        if again.is_set():
            return 0
        raise MemoryError("any error at all")

    monkeypatch.setattr(lease_expiry, "sweep", fail)
    swept = sweeper.Sweeper(serving.database, serving.clock, 0.01)
    serving.state.sweeper = swept
    with thread(lambda: swept.run(Liveness().pulse("x"))):
        until(lambda: swept.last.failures >= health.MAY_FAIL)
        assert ready(serving) == (503, ["database"])
        assert "MemoryError" in next(c for c in raw_checks(serving) if c["state"] == "failed")["detail"]
        again.set()
        until(lambda: swept.last.failures == 0)
        assert ready(serving) == (200, []) and len(calls) > 2
        swept.stop()
    swept.last = sweeper.Swept(swept.last.at_s - 1000)
    assert ready(serving) == (503, ["sweeper"])


def raw_checks(farm: Farm) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = farm.call("GET", "/readyz?verbose", "viewer").json()["checks"]
    return listed


@contextmanager
def thread(work: Callable[[], None]) -> Iterator[None]:
    running = threading.Thread(target=work)
    running.start()
    yield
    running.join()


def until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come true")


@pytest.mark.medium
def test_a_database_that_hangs_does_not_hang_the_answer(serving: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.1)
    release, begun = threading.Event(), []

    @contextmanager
    def hang() -> Iterator[None]:
        begun.append(1)
        release.wait(60)
        yield

    with monkeypatch.context() as patched:
        patched.setattr(serving.state.database, "read", hang)
        for _ in range(3):
            assert ready(serving) == (503, ["database"])
        assert len(begun) == 1, "one look hangs, not one for each request"
        release.set()
        until(lambda: serving.state.readiness._running is not None and serving.state.readiness._running.done())
    assert ready(serving) == (200, [])


@pytest.mark.medium
def test_a_database_file_that_is_gone_is_503_until_it_is_back(farm: Farm, tmp_path: Path) -> None:
    farm.supernet()
    model = farm.upload()
    file, away = farm.home / "farm.db", tmp_path / "away.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file.rename(away)
    for answer in (
        farm.call("GET", f"/models/{model}"),
        farm.call("POST", "/tokens", json={"name": "x", "role": "viewer"}),
    ):
        assert "farm.db is gone" in problem(answer, 503, "infra")["detail"]
    assert ready(farm) == (503, ["database"])
    assert not file.exists(), "no empty database is made in its place"
    assert farm.call("GET", "/healthz", None).status_code == 200
    away.rename(file)
    assert farm.ok("GET", f"/models/{model}")["id"] == model
    assert ready(farm) == (200, []) and farm.upload()


@pytest.mark.medium
def test_a_backup_in_the_place_of_the_database_is_read_at_once(farm: Farm, tmp_path: Path) -> None:
    farm.secret("user")
    file, backup = farm.home / "farm.db", tmp_path / "backup.db"
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    farm.upload()
    for path in (*farm.home.glob("farm.db-*"), file):
        path.unlink()
    backup.rename(file)
    assert farm.ok("GET", "/models")["items"] == [], "what was written to the old file is not in the new one"
    assert farm.upload()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that no other test needs."""
    with postgres_server() as server:
        yield server


@pytest.mark.slow
def test_postgres_that_stops_is_503_and_all_goes_on_when_it_is_back(
    make_farm: Callable[..., Farm], own_postgres: PostgresServer
) -> None:
    farm = make_farm(database_url=own_postgres.get_uri())
    farm.supernet()
    model = farm.upload()
    assert ready(farm) == (200, [])
    swept = sweeper.Sweeper(farm.database, farm.clock, 0.1)
    with thread(lambda: swept.run(Liveness().pulse("x"))):
        stop_postgres(own_postgres)
        assert ready(farm) == (503, ["database"])
        document = problem(farm.call("GET", f"/models/{model}"), 503, "infra")
        assert "database is away" in document["detail"] and "\n" not in document["detail"]
        until(lambda: swept.last.failures > 0)
        own_postgres.ensure_postgres_running()
        until(lambda: swept.last.failures == 0)
        swept.stop()
    assert farm.ok("GET", f"/models/{model}")["id"] == model
    assert ready(farm) == (200, [])

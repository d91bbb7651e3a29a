"""A process that ends is started again, later each time; only one that is fatal ends the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.supervise.child import CALM_SECONDS, MAX_FAILURES, Backoff, Child
from server.supervise.lock import HomeLock
from server.wire.process import TRY_AGAIN
from tests.small_disk import small_disk


def child(tmp_path: Path, code: str = "raise SystemExit(3)", fatal: bool = False) -> Child:
    log = tmp_path / "logs" / "it.log"
    return Child("agent", [sys.executable, "-c", code], log, dict(os.environ), Backoff(1.0, 60.0), fatal)


def end(it: Child, now_s: float) -> float | None:
    """Start it and let it end by itself; how long it then waits."""
    it.start(now_s)
    if it.process is not None:
        it.process.wait(30)
    return it.ended(now_s)


def test_it_waits_longer_each_time_and_never_gives_up(tmp_path: Path) -> None:
    it, now_s = child(tmp_path), 1000.0
    waits = []
    for _ in range(10):
        seconds = end(it, now_s)
        assert seconds is not None and it.ended(now_s) is None, "one end is reported once"
        assert not it.is_due(now_s + seconds - 0.1) and it.is_due(now_s + seconds)
        waits.append(seconds)
        now_s += seconds
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert not it.failing


def test_a_minute_of_life_is_a_new_beginning(tmp_path: Path) -> None:
    it = child(tmp_path)
    assert [end(it, 0.0), end(it, 10.0)] == [1, 2]
    it.start(100.0)
    assert it.process is not None
    it.process.wait(30)
    assert it.ended(100.0 + CALM_SECONDS) == 1


def test_a_fatal_one_fails_after_some_ends_of_its_own(tmp_path: Path) -> None:
    it = child(tmp_path, "print('why it ends'); raise SystemExit(1)", fatal=True)
    for _ in range(MAX_FAILURES):
        end(it, 0.0)
    assert not it.failing
    end(it, 0.0)
    assert it.failing and it.last_line() == "why it ends" and it.how_it_ended() == "status 1"


def test_one_whose_database_or_disk_is_away_is_not_given_up(tmp_path: Path) -> None:
    it = child(tmp_path, f"raise SystemExit({TRY_AGAIN})", fatal=True)
    for _ in range(2 * MAX_FAILURES):
        end(it, 0.0)
    assert not it.failing


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    it = child(tmp_path)
    it.command = [str(tmp_path / "nothing")]
    assert [end(it, 0.0), end(it, 0.0)] == [1, 2]
    assert "cannot be started" in it.how_it_ended() and it.last_line() == "no message"


def test_it_starts_without_a_log_where_the_disk_refuses_one(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    it = child(tmp_path, "print('to nobody')")
    it.start(0.0)
    assert it.process is not None and it.process.wait(30) == 0


@pytest.mark.medium
def test_the_lock_of_a_home_on_a_full_disk_is_held(tmp_path: Path) -> None:
    with small_disk(0):
        lock = HomeLock.acquire(tmp_path, 8000)
    lock.release()
    assert (tmp_path / "run.lock").read_text() == ""


@pytest.mark.medium
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_database_that_is_away_at_a_start_is_a_reason_to_try_again(command: str, tmp_path: Path) -> None:
    away = {"ELASTICVIT_HOME": str(tmp_path), "ELASTICVIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    ended = subprocess.run(
        [sys.executable, "-m", "server.cli", command],
        env={**os.environ, **away},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == TRY_AGAIN and "database is away" in ended.stderr and "Traceback" not in ended.stderr

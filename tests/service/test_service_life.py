"""How a service starts and stops: signals, a second one beside it, older and read-only homes."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from server.store.db import Database, upgrade
from tests.service.service_farm import (
    Service,
    agent_command,
    check_nothing_left,
    elasticvit,
    finished,
    free_port,
    is_locked,
    processes,
    rows,
    wait_until,
    without_roots_right_to_write,
)

STOP_SECONDS = 20


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def parts_of(home: Path) -> dict[int, str]:
    """Server, worker and agent, without the exports and benchmarks that they start and end."""
    return {pid: command for pid, command in processes(home).items() if "--exit-with-parent" in command}


@pytest.mark.long
@pytest.mark.slow
def test_sigterm_ends_all_and_the_next_start_goes_on(start: Callable[..., Service], home: Path) -> None:
    service = start()
    assert len(parts_of(home)) == 3
    url = service.ask(service.budget_ms(0.15), verify=True)
    session = service.until_measuring(url)
    os.killpg(service.main.pid, signal.SIGTERM)
    assert service.main.wait(STOP_SECONDS) == 0, service.log_tails()
    check_nothing_left(home)
    job = "SELECT job.status, failures FROM job JOIN search ON job.id = job_id WHERE search.id = ?"
    assert rows(home, job, url.rsplit("/", 1)[1]) == [("running", 0)], "parked, until its session is done"

    again = start()
    view = again.wait(url)
    assert view["status"] == "succeeded" and view["result"]["models"], f"{view['error']}\n{again.log_tails()}"
    assert again.ok("GET", session["url"])["status"] == "succeeded"
    again.stop(STOP_SECONDS)
    check_nothing_left(home)


def test_an_interrupt_before_it_is_ready_ends_all(start: Callable[..., Service], home: Path) -> None:
    service = start(ready=False)
    wait_until("preparation", lambda: any(" prepare " in command for command in processes(home).values()))
    service.main.send_signal(signal.SIGINT)  # to the first process alone
    assert service.main.wait(STOP_SECONDS) == 0, service.log_tails()
    check_nothing_left(home)


def test_a_second_server_is_refused_with_the_holder_of_home_and_port(running: Service, tmp_path: Path) -> None:
    running.wait_idle()
    before = parts_of(running.home)
    same_home = finished(elasticvit("up"), running.home, free_port())
    assert same_home.returncode == 3 and "Traceback" not in same_home.stderr
    assert re.search(rf"in use by process {running.main.pid}\b", same_home.stderr), same_home.stderr

    other = tmp_path / "other"
    same_port = finished(elasticvit("up"), other, running.port)
    assert same_port.returncode == 3 and "Traceback" not in same_port.stderr
    assert f"process {running.pid('serve')} " in same_port.stderr and "ELASTICVIT_PORT" in same_port.stderr
    assert processes(other) == {} and files(other) == ["run.lock"]

    own_agent = finished(agent_command(running.home, running.port), running.home, running.port)
    assert own_agent.returncode == 3, own_agent.stderr
    assert parts_of(running.home) == before and running.ok("GET", "/devices/host")["state"] == "idle"
    assert is_locked(running.home)


def back_to_the_first_revision(home: Path) -> None:
    """Replace the home's database by one of the first schema, with the rows and columns that the first schema has."""
    older = home / "older.db"
    database = Database(f"sqlite:///{older}")
    upgrade(database, "0001")
    database.close()
    with closing(sqlite3.connect(older)) as first, first:
        first.execute("ATTACH ? AS present", (str(home / "farm.db"),))
        for (table,) in first.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table == "alembic_version":
                continue
            columns = ", ".join(row[1] for row in first.execute(f"PRAGMA main.table_info({table})"))
            first.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM present.{table}")
    for leftover in home.glob("farm.db-*"):
        leftover.unlink()
    older.replace(home / "farm.db")


@pytest.mark.slow
def test_a_home_of_an_older_version_is_migrated_and_goes_on(parts: Service) -> None:
    home = parts.home
    kept = ("measurement", "model", "job", "predictor", "token")
    counts = {table: rows(home, f"SELECT count(*) FROM {table}") for table in kept}
    back_to_the_first_revision(home)
    parts.start(*elasticvit("serve"))
    parts.start(*elasticvit("worker"))
    parts.wait_serving()
    assert {table: rows(home, f"SELECT count(*) FROM {table}") for table in kept} == counts
    assert (home / "farm.db.before-0001").is_file()
    assert parts.search(parts.budget_ms(0.1))["predictor"]["version"] == 1
    parts.stop(STOP_SECONDS)
    check_nothing_left(home)


@pytest.mark.parametrize("command", ["up", "serve", "worker"])
def test_a_read_only_home_is_refused_with_a_sentence(command: str, home: Path) -> None:
    before = files(home)
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for path in [*home.rglob("*"), home]:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    try:
        ended = finished(elasticvit(command), home, free_port(), preexec_fn=without_roots_right_to_write)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert ended.returncode == 1, ended.stderr
    assert "cannot be written" in ended.stderr and "ELASTICVIT_HOME" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert files(home) == before and processes(home) == {}


def test_a_home_of_a_newer_version_is_refused_and_left_alone(home: Path) -> None:
    rows(home, "UPDATE alembic_version SET version_num = '9999'")
    ended = finished(elasticvit("up"), home, free_port())
    assert ended.returncode == 1 and "9999" in ended.stderr and "upgrade" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert rows(home, "SELECT version_num FROM alembic_version") == [("9999",)]
    check_nothing_left(home)


def test_a_home_in_a_read_only_folder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        home = tmp_path / "deeper"
        ended = finished(elasticvit("up"), home, free_port(), preexec_fn=without_roots_right_to_write)
    finally:
        tmp_path.chmod(0o755)
    assert ended.returncode == 1 and "ELASTICVIT_HOME" in ended.stderr and "Traceback" not in ended.stderr
    assert files(tmp_path) == []

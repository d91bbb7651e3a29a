"""Every process of a service killed in the middle of its work: the answer comes all the same, and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.server_farm import describe, problem, session_body, tiny_tflite
from tests.service.service_farm import (
    Service,
    agent_command,
    check_nothing_left,
    elasticvit,
    is_locked,
    processes,
    rows,
    wait_until,
    wait_until_nothing_left,
)

ORPHANS_SECONDS = 20
ABSENCE_SECONDS = 60


def session_of(service: Service, url: str) -> dict[str, Any]:
    """The only measuring job of a finished search; it brought one measurement and left nothing open."""
    view = service.wait(url)
    assert view["status"] == "succeeded" and view["error"] is None, f"{view['error']}\n{service.log_tails()}"
    assert view["result"]["models"][0]["latency"]["host"]["measured_ms"] > 0
    first = service.children(url)[0]
    assert first["status"] == "succeeded"
    assert len(rows(service.home, "SELECT id FROM measurement WHERE job_id = ?", first["id"])) == 1
    assert rows(service.home, "SELECT id FROM attempt WHERE ended_at IS NULL") == []
    wait_until_nothing_left(service.home)
    return first


def state_of_host(service: Service) -> str:
    state: str = service.ok("GET", "/devices/host")["state"]
    return state


def attempts(service: Service, job_id: str) -> list[tuple[int, str]]:
    return rows(service.home, "SELECT number, outcome FROM attempt WHERE job_id = ? ORDER BY number", job_id)


def parent_attempts(service: Service, url: str) -> list[tuple[int, str]]:
    job_rows = rows(service.home, "SELECT job_id FROM search WHERE id = ?", url.rsplit("/", 1)[1])
    return attempts(service, job_rows[0][0])


def assert_only_parked(service: Service, url: str) -> None:
    """The search waited for its sessions without a lease, and nothing of it was lost."""
    *earlier, last = [outcome for _, outcome in parent_attempts(service, url)]
    assert last == "succeeded" and earlier and set(earlier) == {"parked"}, [*earlier, last]


@pytest.mark.slow
def test_a_killed_server_comes_back_and_the_search_succeeds(running: Service) -> None:
    url = running.ask(running.budget_ms(0.1), verify=True, seed=1)
    running.until_measuring(url)
    killed = running.pid("serve")
    os.kill(killed, signal.SIGKILL)
    session = session_of(running, url)
    assert running.pid("serve") != killed
    assert attempts(running, session["id"]) == [(1, "succeeded")]
    assert_only_parked(running, url)


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_another_that_measures_nothing_twice(running: Service) -> None:
    url = running.ask(running.budget_ms(0.2), verify=True, seed=2)
    running.until_measuring(url)
    running.kill("worker")
    session = session_of(running, url)
    assert attempts(running, session["id"]) == [(1, "succeeded")]
    assert_only_parked(running, url)  # it held no lease that the worker could take with it


@pytest.mark.slow
def test_what_a_killed_agent_held_goes_back_when_it_registers_again(running: Service) -> None:
    model = running.ok("POST", "/models", content=tiny_tflite(0.5))
    url = running.measure(model["id"], rounds=4, min_secs=0.5)
    job = running.until(url, lambda job: job["status"] == "running", "session")
    wait_until("benchmark", lambda: any("android_bench" in c for c in processes(running.home).values()))
    bench = {pid for pid, command in processes(running.home).items() if "android_bench" in command}
    running.kill("device_agent.cli")
    lease_ends_at = rows(running.home, "SELECT lease_expires_at FROM job WHERE id = ?", job["id"])[0][0]
    ended = running.wait(url)
    assert ended["status"] == "succeeded" and ended["attempts"] == 2, f"{ended}\n{running.log_tails()}"
    assert attempts(running, job["id"]) == [(1, "expired"), (2, "succeeded")]
    first_ended_at = rows(running.home, "SELECT ended_at FROM attempt WHERE job_id = ? AND number = 1", job["id"])[0][0]
    assert first_ended_at < lease_ends_at, "the lease ran out; the agent's successor did not give it back"
    assert len(rows(running.home, "SELECT id FROM measurement WHERE job_id = ?", job["id"])) == 1
    assert not bench & set(processes(running.home)), "the benchmark of the killed agent goes on"
    wait_until_nothing_left(running.home)


def test_a_report_that_waited_in_the_spool_counts_after_registering_again(running: Service) -> None:
    agent = {"name": "by-hand", "version": "1", "devices": [describe("bench-2", "phone")]}
    agent_id = running.ok("POST", "/agents/register", json=agent)["agent_id"]
    model = running.ok("POST", "/models", content=tiny_tflite(0.75))
    body = {"kind": "measure", "device": "bench-2", "model_id": model["id"]}
    job_url = running.ok("POST", "/jobs", json=body)["url"]
    lease = running.ok("POST", "/leases", json={"agent_id": agent_id, "devices": ["bench-2"]})

    assert running.ok("POST", "/agents/register", json=agent)["agent_id"] == agent_id
    assert running.ok("GET", job_url)["status"] == "queued"
    problem(running.call("POST", f"/leases/{lease['lease_id']}/renew", json={"attempt": 1}), 409)
    report = {"lease_id": lease["lease_id"], "attempt": 1, "outcome": "measured"}
    report["session"] = session_body(device="bench-2", kind="phone")
    for _ in range(2):
        reported = running.ok("POST", f"/leases/{lease['lease_id']}/report", json=report)
        assert reported["status"] == "succeeded"
    job = running.ok("GET", job_url)
    assert job["status"] == "succeeded" and job["attempts"] == 1 and job["error"] is None
    assert len(rows(running.home, "SELECT id FROM measurement WHERE job_id = ?", job["id"])) == 1


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_supervisor_leaves_no_orphans_and_the_next_start_goes_on(
    start: Callable[..., Service], home: Path
) -> None:
    service = start()
    url = service.ask(service.budget_ms(0.15), verify=True)
    service.until_measuring(url)
    service.main.kill()
    service.main.wait()
    wait_until("end of the orphans", lambda: processes(home) == {}, ORPHANS_SECONDS)
    assert not is_locked(home)

    again = start()
    session = session_of(again, url)
    assert session["attempts"] <= 2
    again.stop()
    check_nothing_left(home)


@pytest.mark.slow
def test_the_service_of_a_demo_ends_with_a_demo_that_is_killed(home: Path) -> None:
    begin = "import pathlib, sys, time; from server.demo import run; "
    begin += "run._start(pathlib.Path(sys.argv[1])); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", begin, str(home)]) as demo:
        wait_until("start", lambda: len(processes(home)) > 2)
        demo.kill()
    wait_until("end of the orphans", lambda: processes(home) == {}, ORPHANS_SECONDS)


@pytest.mark.long
@pytest.mark.slow
def test_a_verified_search_waits_for_an_agent_that_is_away(parts: Service) -> None:
    parts.start(*elasticvit("serve"))
    parts.start(*elasticvit("worker"))
    parts.wait_serving()
    # The agent that calibrated this home may have left a moment ago.
    wait_until("absence of the agent", lambda: state_of_host(parts) == "offline", ABSENCE_SECONDS)
    url = parts.ask(parts.budget_ms(0.25), verify=True)
    view = parts.until(url, lambda view: "host" in ((view["progress"] or {}).get("stage", "")), "waiting")
    assert view["status"] == "running" and view["progress"]["done"] == 0
    assert parts.children(url)[0]["status"] == "queued"
    parts.start(*agent_command(parts.home, parts.port))
    session_of(parts, url)
    parts.stop()
    check_nothing_left(parts.home)

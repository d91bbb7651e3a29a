"""The server goes away, forgets, or takes things back: nothing that was measured is lost, nothing is reported twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.wire import JobStatus
from tests.device_agent.agent_farm import Farm, wait_until
from tests.device_agent.fake_server import TOKEN
from tests.small_disk import forbid_writing


@pytest.mark.medium
def test_a_report_waits_for_the_server_and_is_delivered_once(agent_farm: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent_farm.server.job(agent_farm.model("slow", until=str(go)))
    agent_farm.start()
    wait_until("the benchmark", agent_farm.bench_calls)
    agent_farm.server.close()
    go.touch()
    wait_until("a spooled report", agent_farm.spooled)
    assert agent_farm.server.reports == []
    agent_farm.server.open()
    agent_farm.wait_for_report()
    wait_until("an empty spool", lambda: agent_farm.files("spool") == [])
    agent_farm.server.job(agent_farm.model("next"))
    agent_farm.wait_for_report(2)
    assert [report.lease_id for report in agent_farm.server.reports] == ["job-1-lease-1", "job-2-lease-1"]
    assert [call["label"] for call in agent_farm.bench_calls()] == ["slow", "next"]


@pytest.mark.medium
def test_a_spooled_report_survives_a_restart_of_the_agent(agent_farm: Farm) -> None:
    agent_farm.server.answers["/report"] = (503, b"<h1>Service Unavailable</h1>")
    agent_farm.server.job(agent_farm.model())
    first = agent_farm.start()
    wait_until("a spooled report", agent_farm.spooled)
    first.kill()
    first.wait()
    del agent_farm.server.answers["/report"]
    agent_farm.start()
    assert agent_farm.wait_for_report().session is not None
    assert len(agent_farm.bench_calls()) == 1


@pytest.mark.medium
def test_a_stale_report_is_dropped_and_work_goes_on(agent_farm: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = agent_farm.server.job(agent_farm.model("slow", until=str(go)))
    agent_farm.start()
    wait_until("the first renewal", lambda: agent_farm.server.renewals)
    wait_until("the benchmark", agent_farm.bench_calls)
    agent_farm.server.expire(job)
    go.touch()
    report = agent_farm.wait_for_report()
    assert report.lease_id == "job-1-lease-2", "the one that came too late is not among the reports"
    assert agent_farm.server.calls["/leases/job-1-lease-1/report"] == 1
    wait_until("an empty spool", lambda: agent_farm.files("spool") == [])
    assert "too late" in agent_farm.log()


@pytest.mark.medium
def test_an_agent_that_the_server_forgot_registers_again(agent_farm: Farm) -> None:
    agent_farm.start()
    wait_until("a heartbeat", lambda: agent_farm.server.beats)
    with agent_farm.server.lock:
        agent_farm.server.agents.clear()
        agent_farm.server.beats.clear()
    wait_until("a heartbeat of the new registration", lambda: agent_farm.server.beats)
    assert len(agent_farm.server.agents) == 1
    agent_farm.server.job(agent_farm.model())
    assert agent_farm.wait_for_report().session is not None


@pytest.mark.medium
def test_an_agent_started_before_its_server_waits_for_it(agent_farm: Farm) -> None:
    agent_farm.server.close()
    agent_farm.start()
    wait_until("the complaint", lambda: "no answer from the server" in agent_farm.log())
    agent_farm.server.open()
    agent_farm.server.job(agent_farm.model())
    assert agent_farm.wait_for_report().session is not None


@pytest.mark.medium
def test_a_new_token_is_taken_up_without_a_restart(agent_farm: Farm) -> None:
    agent_farm.server.token = "another-secret"
    agent_farm.start()
    wait_until("the complaint", lambda: "no or wrong token" in agent_farm.log())
    agent_farm.token_file.write_text("another-secret\n")
    agent_farm.server.job(agent_farm.model())
    assert agent_farm.wait_for_report().session is not None
    assert TOKEN not in agent_farm.log() and "another-secret" not in agent_farm.log()


@pytest.mark.medium
def test_something_else_at_the_servers_address_is_waited_out(agent_farm: Farm) -> None:
    agent_farm.server.answers["/register"] = (200, b"<html>log in to the hotel</html>")
    agent_farm.start()
    wait_until("the complaint", lambda: "check the server's address" in agent_farm.log())
    del agent_farm.server.answers["/register"]
    wait_until("a heartbeat", lambda: agent_farm.server.beats)


@pytest.mark.medium
def test_a_refused_report_is_set_aside_and_the_job_is_not_left_waiting(agent_farm: Farm) -> None:
    server = agent_farm.server
    problem = {"title": "no", "status": 422, "kind": "user", "detail": "rounds: too many"}
    server.answers["job-1-lease-1/report"] = (422, json.dumps(problem).encode())
    agent_farm.server.job(agent_farm.model())
    agent_farm.start()
    wait_until(
        "the refused report", lambda: agent_farm.home.exists() and "00000001-0.refused" in agent_farm.files("spool")
    )
    assert server.calls["/leases/job-1-lease-1/report"] == 2, "the report, then that it was refused"
    del server.answers["job-1-lease-1/report"]
    other = server.job(agent_farm.model("next"))
    wait_until("the next job", lambda: other.status is JobStatus.SUCCEEDED)


@pytest.mark.medium
def test_a_report_that_no_disk_takes_is_held_until_one_does(agent_farm: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent_farm.server.job(agent_farm.model("slow", until=str(go)))
    agent_farm.start()
    wait_until("the benchmark", agent_farm.bench_calls)
    spool = agent_farm.home / "spool"
    forbid_writing(spool)
    agent_farm.server.close()
    go.touch()
    wait_until("a full disk", lambda: "holding it in memory" in agent_farm.log())
    if spool.is_symlink():
        spool.unlink()
        spool.mkdir()
    else:
        spool.chmod(0o755)
    wait_until("the report on disk", agent_farm.spooled)
    agent_farm.server.open()
    assert agent_farm.wait_for_report().session is not None
    wait_until("an empty spool", lambda: agent_farm.spooled() == [])


@pytest.mark.medium
def test_heartbeats_tell_busy_and_idle(agent_farm: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    agent_farm.server.job(agent_farm.model("slow", until=str(go)))
    agent_farm.start()

    def last_state() -> str:
        beats = agent_farm.server.beats
        return beats[-1].devices[0].state.value if beats else "none"

    wait_until("busy", lambda: last_state() == "busy")
    go.touch()
    wait_until("idle", lambda: last_state() == "idle")
    assert "loadavg" in agent_farm.server.beats[-1].devices[0].conditions

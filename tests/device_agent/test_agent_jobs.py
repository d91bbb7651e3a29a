"""What the agent does with one job: the session it measures, and the failure it reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.wire import JobStatus, Report
from tests.device_agent.agent_farm import Farm, is_running, wait_until


def failure_of(report: Report) -> tuple[str, str]:
    assert report.failure is not None
    return report.failure.kind, report.failure.detail


@pytest.mark.medium
def test_a_session_interleaves_anchor_and_model_and_ends_with_the_profile(agent_farm: Farm) -> None:
    anchor, model = agent_farm.model("anchor", ns=1000), agent_farm.model("model", ns=2000)
    job = agent_farm.server.job(model, anchor, rounds=3, runs=4, min_secs=0.1, max_secs=7.0, profile=True)
    agent_farm.start()
    report = agent_farm.wait_for_report()

    calls = agent_farm.bench_calls()
    expected = [("anchor", False), ("model", False)] * 3 + [("model", True)]
    assert [(call["label"], call["profile"]) for call in calls] == expected
    flags = calls[0]["flags"]
    assert (flags["--threads"], flags["--runs"], flags["--min-secs"], flags["--max-secs"]) == ("1", "4", "0.1", "7")
    assert {call["flags"]["--cpu-mask"] for call in calls} == {flags["--cpu-mask"]}, "one core for the whole session"

    session = report.session
    assert report.outcome == "measured" and session is not None
    assert (report.lease_id, report.attempt) == ("job-1-lease-1", 1)
    assert [run.model.samples_ns for run in session.rounds] == [[2000, 2001, 2002, 2003]] * 3
    assert [run.anchor.samples_ns for run in session.rounds if run.anchor] == [[1000, 1001, 1002, 1003]] * 3
    assert session.profile is not None
    assert [(op.node, op.tag, op.count, op.total_us, op.avg_us) for op in session.profile] == [
        (0, "CONV", 20, 20.0, 2.0),  # 20 firings in 10 runs: 2 µs an inference
        (1, "ADD", 20, 40.0, 4.0),
    ]
    assert (session.init_ms, session.first_ms, session.peak_rss_kb) == (1.5, 3.0, 2000)
    assert session.fully_accelerated is True and session.emulated is False
    assert session.device == next(iter(agent_farm.server.agents.values())).devices[0]
    assert (session.device.name, session.device.kind) == ("host", "host")
    assert job.status is JobStatus.SUCCEEDED
    wait_until("word that the work began, long before the lease runs out", lambda: agent_farm.server.renewals)
    assert agent_farm.files("work") == []
    wait_until("an empty spool", lambda: agent_farm.files("spool") == [])


@pytest.mark.medium
def test_without_an_anchor_only_the_model_is_measured(agent_farm: Farm) -> None:
    agent_farm.server.job(agent_farm.model(), rounds=2)
    agent_farm.start()
    session = agent_farm.wait_for_report().session
    assert session is not None and session.profile is None
    assert [run.anchor for run in session.rounds] == [None, None]


@pytest.mark.medium
def test_the_protocols_own_mask_is_used(agent_farm: Farm) -> None:
    agent_farm.server.job(agent_farm.model(), cpu_mask=0xF0)
    agent_farm.start()
    agent_farm.wait_for_report()
    assert agent_farm.bench_calls()[0]["flags"]["--cpu-mask"] == "f0"


@pytest.mark.medium
def test_files_are_fetched_once(agent_farm: Farm) -> None:
    anchor = agent_farm.model("anchor")
    for ns in (2000, 3000):
        agent_farm.server.job(agent_farm.model(ns=ns), anchor)
    agent_farm.start()
    agent_farm.wait_for_report(2)
    assert agent_farm.server.calls[anchor.url] == 1
    assert agent_farm.files("cache") == sorted(agent_farm.server.blobs)


BAD = "android_bench: error: bad model: it is cut short: export it again"


@pytest.mark.medium
@pytest.mark.parametrize(
    ("behaviour", "kind", "detail", "reports"),
    [
        ({"exit": 4, "stderr": f"INFO: LiteRT\n{BAD}\n"}, "user", BAD.removeprefix("android_bench: error: "), 1),
        ({"exit": 7, "stderr": "android_bench: error: a run failed\n"}, "device", "a run failed", 3),
    ],
)
def test_a_failure_has_its_kind_and_the_error_message(
    agent_farm: Farm, behaviour: dict[str, Any], kind: str, detail: str, reports: int
) -> None:
    job = agent_farm.server.job(agent_farm.model(**behaviour), agent_farm.model("anchor"))
    agent_farm.start()
    report = agent_farm.wait_for_report()
    assert failure_of(report) == (kind, detail)
    assert str(behaviour["stderr"]).strip() in report.log
    wait_until("the end of the job", lambda: job.status is JobStatus.FAILED)
    assert len(agent_farm.server.reports) == reports, "the user's fault is not tried again"
    assert agent_farm.files("work") == []


@pytest.mark.medium
def test_a_bad_anchor_is_not_the_users_fault(agent_farm: Farm) -> None:
    agent_farm.server.job(agent_farm.model(), agent_farm.model("anchor", exit=4, stderr=BAD))
    agent_farm.start()
    kind, detail = failure_of(agent_farm.wait_for_report())
    assert kind == "infra" and "anchor" in detail


@pytest.mark.medium
def test_a_hanging_benchmark_is_killed(agent_farm: Farm, tmp_path: Path) -> None:
    agent_farm.server.job(agent_farm.model(until=str(tmp_path / "never")), max_secs=0.1)
    agent_farm.start(BENCH_GRACE_SECONDS="5")
    kind, detail = failure_of(agent_farm.wait_for_report())
    assert kind == "user" and "was killed" in detail
    assert not is_running(agent_farm.bench_calls()[0]["pid"])


@pytest.mark.medium
def test_a_download_that_is_not_the_named_file_is_never_measured(agent_farm: Farm) -> None:
    model = agent_farm.model()
    agent_farm.server.blobs[model.sha256] = b"x" * model.size_bytes
    job = agent_farm.server.job(model)
    agent_farm.start()
    kind, detail = failure_of(agent_farm.wait_for_report())
    assert kind == "infra" and model.sha256 in detail
    wait_until("the end of the job", lambda: job.status is JobStatus.FAILED)
    assert agent_farm.server.calls[model.url] == 2 * len(job.leases), "what came damaged is fetched once more"
    assert agent_farm.files("cache") == []
    assert agent_farm.bench_calls() == []


@pytest.mark.medium
def test_a_file_that_the_server_has_not_is_its_fault(agent_farm: Farm) -> None:
    model = agent_farm.model()
    del agent_farm.server.blobs[model.sha256]
    agent_farm.server.job(model)
    agent_farm.start()
    kind, detail = failure_of(agent_farm.wait_for_report())
    assert kind == "infra" and "no such file" in detail


@pytest.mark.medium
@pytest.mark.parametrize(("lease_seconds", "renew_seconds"), [(0.3, None), (3600.0, 0.1)])
def test_a_cancelled_job_is_dropped_while_it_runs(
    agent_farm: Farm, tmp_path: Path, lease_seconds: float, renew_seconds: float | None
) -> None:
    """An older server does not say how often to renew."""
    agent_farm.server.lease_seconds, agent_farm.server.renew_seconds = lease_seconds, renew_seconds
    job = agent_farm.server.job(agent_farm.model("slow", until=str(tmp_path / "never")))
    agent_farm.start()
    wait_until("the benchmark", agent_farm.bench_calls)
    with agent_farm.server.lock:
        agent_farm.server.gone.update(job.leases)
        job.status = JobStatus.CANCELLED
    wait_until("the end of the benchmark", lambda: not is_running(agent_farm.bench_calls()[0]["pid"]))
    other = agent_farm.server.job(agent_farm.model("next"))
    report = agent_farm.wait_for_report()
    assert report.lease_id == other.leases[0], "nothing was said about the job that is gone"
    assert agent_farm.server.calls[f"/leases/{job.leases[0]}/report"] == 0


@pytest.mark.medium
def test_the_benchmark_is_given_no_token(agent_farm: Farm, tmp_path: Path) -> None:
    spy = tmp_path / "spied"
    program = agent_farm.program
    look = f"import os; open({str(spy)!r}, 'w').write(repr(os.environ))"
    program.write_text(program.read_text().replace("import json", f"{look}\nimport json", 1))
    agent_farm.server.job(agent_farm.model())
    agent_farm.start(TOKEN=agent_farm.server.token)
    agent_farm.wait_for_report()
    assert "environ" in spy.read_text() and agent_farm.server.token not in spy.read_text()
    assert agent_farm.server.token not in agent_farm.log()

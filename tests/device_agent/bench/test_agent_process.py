"""The agent as a process: killed, stopped, started twice, orphaned, wrongly configured."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.bench.leftovers import kill_leftovers
from server.wire import JobStatus
from tests.device_agent.agent_farm import PATIENCE_SECONDS, Farm, is_running, wait_until


def slow_job(farm: Farm, tmp_path: Path) -> Path:
    """A job whose benchmark runs until the file that is returned exists."""
    go = tmp_path / "go"
    farm.server.job(farm.model("slow", until=str(go)), farm.model("anchor"))
    return go


def bench_pid(farm: Farm) -> int:
    wait_until("the benchmark of the model", lambda: any(call["label"] == "slow" for call in farm.bench_calls()))
    return int(next(call["pid"] for call in farm.bench_calls() if call["label"] == "slow"))


@pytest.mark.medium
def test_sigterm_ends_the_benchmark_and_gives_the_job_back(agent_farm: Farm, tmp_path: Path) -> None:
    go = slow_job(agent_farm, tmp_path)
    agent = agent_farm.start()
    pid = bench_pid(agent_farm)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE_SECONDS) == 0
    assert not is_running(pid)
    failure = agent_farm.wait_for_report().failure
    assert failure is not None and failure.kind == "infra" and "stopped" in failure.detail
    assert agent_farm.server.jobs["job-1"].status is JobStatus.QUEUED
    assert agent_farm.server.beats[-1].devices[0].state.value == "offline"
    assert agent_farm.files("work") == [] and agent_farm.files("spool") == []

    go.touch()
    agent_farm.start()
    assert agent_farm.wait_for_report(2).session is not None


@pytest.mark.medium
def test_sigterm_while_the_server_is_away_keeps_the_word_for_later(agent_farm: Farm, tmp_path: Path) -> None:
    go = slow_job(agent_farm, tmp_path)
    agent = agent_farm.start()
    pid = bench_pid(agent_farm)
    agent_farm.server.close()
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE_SECONDS) == 0
    assert not is_running(pid)
    assert agent_farm.files("spool") == ["00000001.json"]
    agent_farm.server.open()
    go.touch()
    agent_farm.start()
    assert agent_farm.wait_for_report(1).failure is not None
    assert agent_farm.wait_for_report(2).session is not None


@pytest.mark.medium
def test_sigterm_while_idle(agent_farm: Farm) -> None:
    agent = agent_farm.start()
    wait_until("a heartbeat", lambda: agent_farm.server.beats)
    agent.send_signal(signal.SIGINT)
    assert agent.wait(PATIENCE_SECONDS) == 0


@pytest.mark.medium
def test_an_agent_killed_in_the_middle_of_a_job_leaves_nothing_that_stays(agent_farm: Farm, tmp_path: Path) -> None:
    go = slow_job(agent_farm, tmp_path)
    agent = agent_farm.start()
    pid = bench_pid(agent_farm)
    agent.kill()
    agent.wait()
    wait_until("the end of the orphaned benchmark", lambda: not is_running(pid))
    agent_farm.server.expire(agent_farm.server.jobs["job-1"])
    agent_farm.start()
    go.touch()
    report = agent_farm.wait_for_report()
    assert report.session is not None and report.lease_id == "job-1-lease-2"
    assert agent_farm.files("work") == []
    assert agent_farm.files("cache") == sorted(agent_farm.server.blobs)


@pytest.mark.medium
@pytest.mark.parametrize("out", ["result.json", "{work}/job-1/result.json"])
def test_a_benchmark_of_an_earlier_agent_is_ended(tmp_path: Path, out: str) -> None:
    """Without a kernel that ends it with the agent; older agents named the whole path."""
    work = tmp_path / "work"
    (work / "job-1").mkdir(parents=True)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)", "--out"]
    left = subprocess.Popen([*sleep, out.format(work=work)], cwd=work / "job-1" if out == "result.json" else tmp_path)
    other = subprocess.Popen([*sleep, "result.json"], cwd=tmp_path)
    try:
        wait_until("both", lambda: all(b"--out" in Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in (left, other)))
        kill_leftovers(work)
        assert left.wait(PATIENCE_SECONDS) == -signal.SIGKILL and other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


@pytest.mark.medium
def test_an_agent_killed_in_the_middle_of_a_download_leaves_no_half_file(agent_farm: Farm) -> None:
    model = agent_farm.model("large", padding="x" * 2_000_000)
    job = agent_farm.server.job(model)
    agent_farm.server.stall_at = 1_000_000
    agent = agent_farm.start()
    unfinished = agent_farm.home / "cache" / f".{model.sha256}.part"
    wait_until("half a file", lambda: unfinished.exists() and unfinished.stat().st_size > 0)
    agent.kill()
    agent.wait()
    assert not (agent_farm.home / "cache" / model.sha256).exists()
    agent_farm.server.stall_at = None
    agent_farm.server.expire(job)
    agent_farm.start()
    assert agent_farm.wait_for_report().session is not None
    assert agent_farm.files("cache") == [model.sha256]


@pytest.mark.medium
def test_a_stalled_download_does_not_hold_up_sigterm(agent_farm: Farm) -> None:
    model = agent_farm.model("large", padding="x" * 2_000_000)
    agent_farm.server.job(model)
    agent_farm.server.stall_at = 1_000_000
    agent = agent_farm.start(STOP_SECONDS="1", REQUEST_TIMEOUT_SECONDS="600")
    wait_until("the download", lambda: agent_farm.server.calls[model.url])
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE_SECONDS) == 0


@pytest.mark.medium
def test_a_second_agent_of_the_same_home_names_the_first(agent_farm: Farm) -> None:
    first = agent_farm.start()
    wait_until("a heartbeat", lambda: agent_farm.server.beats)
    second = agent_farm.run()
    assert second.returncode == 3
    assert f"pid {first.pid}" in second.stderr
    assert is_running(first.pid)
    first.terminate()
    assert first.wait(PATIENCE_SECONDS) == 0
    agent_farm.start()
    wait_until("the next one takes the home over", lambda: agent_farm.server.calls["/agents/register"] == 2)


@pytest.mark.medium
def test_an_agent_ends_with_its_parent(agent_farm: Farm) -> None:
    command = agent_farm.command("--exit-with-parent")
    starter = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); sys.stdin.read()"
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, *command],
        env=agent_farm.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    agent_farm.agents.append(parent)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_until("a heartbeat", lambda: agent_farm.server.beats)
    parent.kill()
    parent.communicate()
    wait_until("the end of the agent", lambda: not is_running(pid))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("flags", "environment", "code", "message"),
    [
        (["--token-file", "/nowhere/token"], {}, 2, "/nowhere/token"),
        (["--server", "ftp://there"], {}, 2, "ftp://there"),
        (["--name", "no spaces please"], {}, 2, "name"),
        (["--server", "http://::1:8000"], {}, 2, "in brackets"),
        ([], {"CACHE_MB": "-1"}, 2, "cache_mb"),
        (["--home", "/dev/null/home"], {}, 4, "--home"),
        ([], {"BENCH": "/nowhere/android_bench"}, 5, "/nowhere/android_bench"),
        ([], {"LIBRARY": "/nowhere/lib.so"}, 5, "/nowhere/lib.so"),
    ],
)
def test_invalid_settings_are_refused_at_start(
    agent_farm: Farm, flags: list[str], environment: dict[str, str], code: int, message: str
) -> None:
    ended = agent_farm.run(*flags, **environment)
    assert ended.returncode == code
    assert message in ended.stderr and "Traceback" not in ended.stderr
    assert agent_farm.server.calls.total() == 0


@pytest.mark.medium
@pytest.mark.parametrize("token", ["evt_secret\r\nevt_secret", "evt_secret\x01", "é evt_secret"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_printed(agent_farm: Farm, token: str) -> None:
    ended = agent_farm.run(TOKEN=token)
    assert ended.returncode == 2
    assert "ELASTICVIT_AGENT_TOKEN does not hold a token" in ended.stderr and "evt_secret" not in ended.stderr


@pytest.mark.medium
def test_proxies_of_the_environment_are_not_used_for_this_machine(
    agent_farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    agent_farm.start()
    wait_until("a heartbeat", lambda: agent_farm.server.beats)


@pytest.mark.medium
def test_an_agent_without_a_device_is_refused(agent_farm: Farm) -> None:
    command = [word for word in agent_farm.command() if word != "--host"]
    ended = subprocess.run(
        command, env=agent_farm.environment(), capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == 2 and "--host" in ended.stderr


@pytest.mark.medium
def test_the_agent_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "fastapi", "sqlmodel", "sqlalchemy", "ai_edge_litert", "sklearn", "uvicorn", "typer")
    code = (
        "import importlib, pkgutil, sys, device_agent\n"
        "for module in pkgutil.iter_modules(device_agent.__path__, 'device_agent.'):\n"
        "    importlib.import_module(module.name)\n"
        "import android_bench.build\n"
        f"sys.exit(str([name for name in {heavy!r} if name in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr.strip() == "[]"

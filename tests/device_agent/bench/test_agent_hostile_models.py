"""Models that ask for more than a device should give, each through the real benchmark in a sandbox of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.bench.command import BenchRequest
from device_agent.bench.find import Bench, find_bench
from device_agent.bench.local_process import LocalProcess
from device_agent.bench.outcome import result_of
from device_agent.bench.session import Files
from device_agent.cancellation import Cancellation
from device_agent.devices.host import Host
from device_agent.errors import BadModel, SessionTooLong, WorkError
from device_agent.sandbox.choice import choose
from device_agent.sandbox.command import Sandbox
from server.wire import MeasureProtocol
from tests.device_agent import hostile_models
from tests.device_agent.devices.test_agent_host import lease_of
from tests.server.server_farm import tiny_tflite

LIMIT_BYTES = 500_000_000
GRACE_SECONDS = 2.0
Write = Callable[[Path], Path]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return find_bench(None, None)


@pytest.fixture
def box(bench: Bench, tmp_path: Path) -> Sandbox:
    (tmp_path / "work").mkdir()
    return choose("auto", "nobody", LIMIT_BYTES, bench.program, bench.library, tmp_path / "work").sandbox


@pytest.fixture
def host(bench: Bench, box: Sandbox, tmp_path: Path) -> Host:
    runner = LocalProcess(bench, tmp_path / "work", GRACE_SECONDS, box)
    return Host("host", bench, runner, session_seconds=60.0, sandbox=box.summary)


@pytest.fixture
def anchor(tmp_path: Path) -> Path:
    path = tmp_path / "anchor.tflite"
    path.write_bytes(tiny_tflite())
    return path


def failure_of(host: Host, model: Path, anchor: Path | None, **protocol: object) -> WorkError:
    """Why a session fails. Nothing of it stays."""
    values = {"rounds": 3, "runs": 2, "min_secs": 0.0, "max_secs": 1.0, **protocol}
    with pytest.raises(WorkError) as caught:
        host.measure(lease_of(**values), Files(model, anchor), Cancellation(), lambda _: None)
    assert isinstance(host.runner, LocalProcess)
    assert list(host.runner.work.iterdir()) == []
    return caught.value


@pytest.mark.medium
@pytest.mark.parametrize(
    "write", [hostile_models.write_large_arena, hostile_models.write_large_input, hostile_models.write_large_delegated]
)
def test_a_model_that_asks_for_gigabytes_is_refused_them(
    host: Host, anchor: Path, tmp_path: Path, write: Callable[[Path, int], Path]
) -> None:
    error = failure_of(host, write(tmp_path / "large.tflite", 6 * hostile_models.GIGABYTE), anchor)
    assert isinstance(error, BadModel)
    assert "more than 500 MB of memory" in str(error) and "ELASTICVIT_AGENT_BENCH_MEMORY_MB" in str(error)


@pytest.mark.medium
def test_a_model_within_the_limit_runs(host: Host, anchor: Path, tmp_path: Path) -> None:
    model = hostile_models.write_large_arena(tmp_path / "fair.tflite", 60_000_000)
    session = host.measure(
        lease_of(rounds=1, runs=1, max_secs=1.0), Files(model, anchor), Cancellation(), lambda _: None
    )
    assert session.peak_rss_kb is not None and session.peak_rss_kb > 60_000


@pytest.mark.medium
def test_a_model_that_crashes_is_named_with_its_signal(host: Host, anchor: Path, tmp_path: Path) -> None:
    error = failure_of(host, hostile_models.write_crashing(tmp_path / "crash.tflite"), anchor)
    assert isinstance(error, BadModel)
    assert "LiteRT crashed" in str(error) and "SIGSEGV" in str(error)


@pytest.mark.medium
@pytest.mark.parametrize("write", [hostile_models.write_endless, lambda path: hostile_models.write_slow(path, 30)])
def test_a_model_that_does_not_end_is_given_up_after_its_first_run(
    host: Host, anchor: Path, tmp_path: Path, write: Write
) -> None:
    error = failure_of(host, write(tmp_path / "endless.tflite"), anchor, max_secs=0.1)
    assert isinstance(error, BadModel)
    assert "did not end within 2.2 s" in str(error) and "max_secs" in str(error)


@pytest.mark.medium
def test_a_session_is_bounded(bench: Bench, box: Sandbox, anchor: Path, tmp_path: Path) -> None:
    runner = LocalProcess(bench, tmp_path / "work", GRACE_SECONDS, box)
    host = Host("host", bench, runner, session_seconds=1.0)
    error = failure_of(host, anchor, anchor, rounds=50, min_secs=1.0)
    assert isinstance(error, SessionTooLong) and "at least 200 s" in str(error) and "1 s" in str(error)
    model = hostile_models.write_endless(tmp_path / "endless.tflite")
    error = failure_of(host, model, anchor, max_secs=600.0)
    assert isinstance(error, SessionTooLong) and "within 1 s" in str(error)


@pytest.mark.medium
def test_the_benchmark_reports_as_much_in_the_sandbox(bench: Bench, box: Sandbox, anchor: Path, tmp_path: Path) -> None:
    """What it reads of the machine to report it is still there."""
    request = BenchRequest(anchor, MeasureProtocol(runs=5, min_secs=0.0), 1, profile=True)
    results = []
    for sandbox in (Sandbox(LIMIT_BYTES), box):
        output = LocalProcess(bench, tmp_path / "work", GRACE_SECONDS, sandbox).run(request, Cancellation())
        results.append(result_of(output))
    free, held = results
    assert held.threads == free.threads and held.affinity == free.affinity
    assert len(held.cpu_khz_before) == len(free.cpu_khz_before)
    assert len(held.temperature_mc_before) == len(free.temperature_mc_before)
    assert held.profile is not None and free.profile is not None
    assert [op.tag for op in held.profile.ops] == [op.tag for op in free.profile.ops]

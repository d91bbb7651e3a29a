"""This machine as a device: with the real benchmark and a real model, and what is read of processors."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest

from device_agent.bench.find import Bench, find_bench
from device_agent.bench.local_process import LocalProcess
from device_agent.bench.result import MAX_KEPT_SAMPLES, read_result
from device_agent.bench.session import Files
from device_agent.cancellation import Cancellation
from device_agent.devices import linux_cpu
from device_agent.devices.host import Host
from device_agent.errors import BadModel, Cancelled, DeviceFault, InfraFault, WorkError
from device_agent.sandbox.command import Sandbox
from server.wire import Lease, MeasurementSession, Progress
from tests.device_agent.agent_farm import Farm
from tests.server.server_farm import tiny_tflite


def lease_of(**protocol: object) -> Lease:
    blob = {"sha256": "0" * 64, "size_bytes": 1, "url": "/blobs/0"}
    about = {"lease_id": "l", "attempt": 1, "job_id": "j", "expires_at": "2026-01-01T00:00:00Z", "kind": "measure"}
    values = {"rounds": 2, "runs": 10, "min_secs": 0.0, **protocol}
    return Lease.model_validate({**about, "device": "host", "model": blob, "anchor": blob, "protocol": values})


@pytest.fixture
def real_host(tmp_path: Path) -> Host:
    (tmp_path / "work").mkdir()
    return host_with(find_bench(None, None), tmp_path / "work")


def host_with(bench: Bench, work: Path) -> Host:
    return Host("host", bench, LocalProcess(bench, work, 30.0, Sandbox(10**9)))


@pytest.fixture
def tflite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tiny_tflite())
    return path


def measure(host: Host, model: Path, anchor: Path | None, **protocol: object) -> MeasurementSession:
    reported: list[Progress] = []
    session = host.measure(lease_of(**protocol), Files(model=model, anchor=anchor), Cancellation(), reported.append)
    assert [progress.done for progress in reported] == list(range(len(session.rounds) + 1))
    assert isinstance(host.runner, LocalProcess)
    assert list(host.runner.work.iterdir()) == []
    return session


@pytest.mark.medium
def test_a_real_model_is_measured(real_host: Host, tflite: Path) -> None:
    session = measure(real_host, tflite, tflite, profile=True)
    assert len(session.rounds) == 2
    for run in session.rounds:
        assert run.anchor is not None
        assert len(run.model.samples_ns) >= 10 and len(run.anchor.samples_ns) >= 10
        assert 0 < median(run.model.samples_ns) < 1e9
    assert session.profile and all(op.count > 0 for op in session.profile)
    assert session.init_ms and session.first_ms and session.peak_rss_kb
    assert session.device.runtime_version.startswith("litert ")
    mask = session.conditions["cpu_mask"]
    assert session.rounds[0].model.conditions["affinity"] == {"asked": mask, "got": mask}
    assert MeasurementSession.model_validate_json(session.model_dump_json()) == session


@pytest.mark.medium
def test_a_real_bad_model_is_the_users(real_host: Host, tflite: Path) -> None:
    cut = tflite.with_name("cut.tflite")
    cut.write_bytes(tflite.read_bytes()[:100])
    with pytest.raises(BadModel, match=r"cut\.tflite.*convert it again") as caught:
        measure(real_host, cut, tflite)
    assert str(cut) not in str(caught.value), "where it lies here is nothing to its user"
    assert "android_bench: error: " in caught.value.log


@pytest.mark.medium
@pytest.mark.parametrize(
    ("behaviour", "error", "detail"),
    [
        ({"exit": 2, "stderr": "android_bench: error: no flag\n"}, InfraFault, "no flag"),
        ({"exit": 3, "stderr": "android_bench: error: no library\n"}, InfraFault, "no library"),
        ({"exit": 4, "stderr": "android_bench: error: bad\nINFO: bye\n"}, BadModel, "^bad$"),
        ({"exit": 5, "stderr": "android_bench: error: mask refused\n"}, InfraFault, "mask refused"),
        ({"exit": 6, "stderr": "android_bench: error: disk full\n"}, InfraFault, "disk full"),
        ({"exit": 8, "stderr": "android_bench: error: no memory\n"}, BadModel, "more than 1000 MB of memory"),
        ({"exit": 77}, DeviceFault, "status 77"),
        ({"signal": signal.SIGSEGV}, BadModel, "killed by SIGSEGV"),
        ({"signal": signal.SIGXCPU}, BadModel, "killed by SIGXCPU: .*max_secs"),
        ({"signal": signal.SIGKILL}, DeviceFault, "SIGKILL"),
        ({"signal": 40}, DeviceFault, "signal 40"),
        ({"no_result": True}, InfraFault, "left no result"),
        ({"result": {"schema": 2}}, InfraFault, "schema"),
        ({"result": {"samples_ns": []}}, InfraFault, "samples_ns"),
        ({"result": {"samples_ns": [1, 0]}}, InfraFault, "samples_ns"),
    ],
)
def test_each_way_to_fail_has_its_kind(
    agent_farm: Farm, behaviour: dict[str, object], error: type[WorkError], detail: str
) -> None:
    bench = find_bench(agent_farm.program, library=agent_farm.token_file)
    model, work = agent_farm.folder / "model", agent_farm.folder / "work"
    work.mkdir()
    model.write_text(json.dumps({"label": "model", "ns": 1000, **behaviour}))
    with pytest.raises(error, match=detail) as caught:
        measure(host_with(bench, work), model, None)
    assert caught.value.log == behaviour.get("stderr", "")
    assert list(work.iterdir()) == []


def test_a_mask_that_the_machine_refuses(real_host: Host, tflite: Path) -> None:
    with pytest.raises(InfraFault, match="cpu-mask"):
        measure(real_host, tflite, None, cpu_mask=1 << 62)


def test_a_halt_before_the_first_run(real_host: Host, tflite: Path) -> None:
    cancellation = Cancellation()
    cancellation.set("no more")
    with pytest.raises(Cancelled, match="no more"):
        real_host.measure(lease_of(), Files(model=tflite, anchor=None), cancellation, lambda _: None)


def test_a_full_disk_claims_no_job(real_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert real_host.ready() and "not_ready" not in real_host.conditions()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    assert not real_host.ready() and "disk" in real_host.conditions()["not_ready"]


def test_the_description_stays_the_same(real_host: Host) -> None:
    again = Host("host", real_host.bench, real_host.runner)
    assert again.describe().profile() == real_host.describe().profile()
    assert real_host.describe().bench_build == real_host.bench.build_id
    held = Host("host", real_host.bench, real_host.runner, sandbox="landlock+rlimits")
    assert held.describe().profile() == real_host.describe().profile(), "the same latencies"
    assert held.describe().properties["sandbox"] == "landlock+rlimits"


def test_many_samples_are_thinned_evenly() -> None:
    taken = 12 * MAX_KEPT_SAMPLES
    samples = list(range(1, taken + 1))
    values: dict[str, object] = {"schema": 1, "samples_ns": samples}
    values |= {"threads": {"asked": 1, "got": 1}, "affinity": {"asked": None, "got": "3"}}
    run = read_result(json.dumps(values).encode()).bench_run()
    assert len(run.samples_ns) == MAX_KEPT_SAMPLES
    assert median(run.samples_ns) == pytest.approx(median(samples), rel=0.001)
    assert run.conditions["samples_taken"] == taken


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_the_fast_cores_are_recognised_by_capacity_or_clock(tmp_path: Path) -> None:
    folder = tmp_path / "devices/system/cpu"
    assert linux_cpu.fastest((0, 1, 2), tmp_path) == (0, 1, 2)
    for core, khz in enumerate((1800, 2800, 2800)):
        write(folder / f"cpu{core}/cpufreq/cpuinfo_max_freq", str(khz))
    assert linux_cpu.fastest((0, 1, 2), tmp_path) == (1, 2)
    for core, capacity in enumerate((400, 800, 1024)):
        write(folder / f"cpu{core}/cpu_capacity", str(capacity))
    assert linux_cpu.fastest((0, 1, 2), tmp_path) == (2,)


def test_the_quietest_cores_are_those_that_idled(tmp_path: Path) -> None:
    stat = "cpu  1 1 1 1 1 1 1 {steal} 0 0\ncpu0 5 0 5 {a} 1 0 0 0 0 0\ncpu1 5 0 5 {b} 1 0 0 0 0 0\nintr 5"
    write(tmp_path / "stat", stat.format(a=100, b=900, steal=7))
    before = linux_cpu.idle_ticks(tmp_path)
    assert before == {0: 101, 1: 901} and linux_cpu.steal_ticks(tmp_path) == 7
    write(tmp_path / "stat", stat.format(a=120, b=903, steal=8))
    after = linux_cpu.idle_ticks(tmp_path)
    assert linux_cpu.quietest((0, 1), 1, before, after) == (0,)
    assert set(linux_cpu.quietest((0, 1), 2, before, after)) == {0, 1}
    assert linux_cpu.quietest((0, 1), 1, {}, {}) == (1,)
    assert linux_cpu.mask_of((0, 4)) == 0b10001


def test_conditions_are_read_from_proc_and_sys(tmp_path: Path) -> None:
    assert linux_cpu.conditions(tmp_path, tmp_path) == {}
    write(tmp_path / "loadavg", "0.50 0.25 0.10 1/100 4999")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "41000")
    write(tmp_path / "class/thermal/thermal_zone0/type", "x86_pkg_temp")
    write(tmp_path / "class/thermal/thermal_zone1/temp", "not a number")
    write(tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance")
    write(tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000")
    assert linux_cpu.conditions(tmp_path, tmp_path) == {
        "loadavg": [0.5, 0.25, 0.1],
        "temperature_mc": {"0:x86_pkg_temp": 41000},
        "cpu_khz": {"cpu0": "2400000"},
        "governor": ["performance"],
    }

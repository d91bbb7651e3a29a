"""The result file of a successful run of android_bench."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Bench = Callable[..., dict[str, Any]]
SCHEMA_1 = {
    *("schema", "bench_version", "runtime", "model", "protocol", "seed", "threads", "affinity", "fully_accelerated"),
    *("inputs", "outputs", "init_us", "first_us", "warmup", "runs", "cut_short", "wall_us", "samples_ns", "latency_ms"),
    *("cpu_khz_before", "cpu_khz_after", "temperature_mc_before", "temperature_mc_after", "peak_rss_kb"),
    *("involuntary_switches", "profiled", "profile"),
}


def test_result_has_every_field_of_schema_1(bench_result: Bench) -> None:
    result = bench_result(lib_version="2.3.0")
    assert set(result) == SCHEMA_1
    assert result["schema"] == 1
    assert result["runtime"]["name"] == "litert"
    assert result["runtime"]["version"] == "2.3.0"
    assert result["inputs"] == [{"name": "image", "type": "float32", "shape": [1, 16, 16, 3]}]
    assert result["outputs"][0]["shape"] == [1, 10]
    assert result["fully_accelerated"] is True
    assert result["peak_rss_kb"] > 0


def test_samples_are_all_there_and_summarised_as_numpy_does(bench_result: Bench) -> None:
    result = bench_result(runs=37)
    samples_ms = np.asarray(result["samples_ns"]) / 1e6
    assert result["runs"] == len(samples_ms) == 37
    assert (samples_ms > 0).all()
    latency = result["latency_ms"]
    expected = {
        "avg": samples_ms.mean(),
        "min": samples_ms.min(),
        "max": samples_ms.max(),
        "stddev": samples_ms.std(),
        "median": np.median(samples_ms),
        "p5": np.percentile(samples_ms, 5),
        "p90": np.percentile(samples_ms, 90),
        "p95": np.percentile(samples_ms, 95),
        "init": result["init_us"] / 1e3,
        "first_inference": result["first_us"] / 1e3,
        "average_warm_up": result["warmup"]["avg_us"] / 1e3,
    }
    assert set(latency) == set(expected)
    for name, value in expected.items():
        assert latency[name] == pytest.approx(value, abs=1e-6), name


def test_one_sample_is_its_own_summary(bench_result: Bench) -> None:
    latency = bench_result(runs=1)["latency_ms"]
    assert latency["min"] == latency["median"] == latency["p5"] == latency["p95"] == latency["max"]
    assert latency["stddev"] == 0


def test_runs_and_seconds_are_minima(bench_result: Bench) -> None:
    result = bench_result(runs=3, min_secs="0.05")
    assert result["runs"] > 3  # a run takes microseconds
    assert result["wall_us"] >= 50_000
    assert not result["cut_short"]


def test_max_secs_wins_over_runs(bench_result: Bench) -> None:
    result = bench_result(runs=10_000_000, max_secs="0.05")
    assert result["cut_short"]
    assert 1 <= result["runs"] == len(result["samples_ns"]) < 10_000_000


def test_warm_up_is_counted_apart(bench_result: Bench) -> None:
    assert bench_result(warmup_runs=7)["warmup"]["runs"] == 7
    none = bench_result(warmup_runs=0)
    assert none["warmup"] == {"runs": 0, "avg_us": None}
    assert none["latency_ms"]["average_warm_up"] is None


def test_the_thread_count_is_the_requested_one(bench_result: Bench) -> None:
    max_threads = min(2, len(os.sched_getaffinity(0)))
    for threads in range(1, max_threads + 1):
        assert bench_result(threads=threads)["threads"] == {"asked": threads, "got": threads}


def test_cpu_mask_is_obeyed(bench_result: Bench) -> None:
    last = max(os.sched_getaffinity(0))
    assert bench_result(cpu_mask=f"{1 << last:x}")["affinity"] == {"asked": f"{1 << last:x}", "got": f"{1 << last:x}"}
    everything = sum(1 << cpu for cpu in os.sched_getaffinity(0))
    assert bench_result()["affinity"] == {"asked": None, "got": f"{everything:x}"}


def test_two_inputs_and_two_outputs(bench_result: Bench, bench_models: Path) -> None:
    result = bench_result(model=bench_models / "two_by_two.tflite")
    assert [(tensor["name"], tensor["type"]) for tensor in result["inputs"]] == [("a", "float32"), ("b", "int32")]
    assert len(result["outputs"]) == 2
    assert result["fully_accelerated"] is False  # the cast is the interpreter's


def test_file_and_stdout_hold_the_same_and_nothing_is_left_behind(bench_result: Bench, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    out.write_text("an older result")
    result = bench_result(out=out)
    assert json.loads(out.read_text()) == result
    assert list(tmp_path.iterdir()) == [out]


def test_clocks_and_temperatures_come_from_sysfs(bench_result: Bench, tmp_path: Path) -> None:
    clock = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    zones = [tmp_path / f"sys/class/thermal/thermal_zone{i}" for i in range(3)]
    for folder in (clock.parent, *zones):
        folder.mkdir(parents=True)
    clock.write_text("1803000\n")
    (zones[0] / "type").write_text('skin "back"\n')
    (zones[0] / "temp").write_text("31250\n")
    (zones[1] / "type").write_text("hidden\n")  # no temperature, as where a phone denies it
    (zones[2] / "temp").write_text("-2000\n")
    result = bench_result(sysfs=tmp_path / "sys")
    for when in ("before", "after"):
        assert result[f"cpu_khz_{when}"] == [1803000] + [None] * (os.sysconf("SC_NPROCESSORS_CONF") - 1)
        assert result[f"temperature_mc_{when}"] == [{"type": 'skin "back"', "mc": 31250}, {"type": None, "mc": -2000}]


def test_without_sensors_the_lists_are_empty(bench_result: Bench, tmp_path: Path) -> None:
    result = bench_result(sysfs=tmp_path / "nothing")
    assert result["cpu_khz_before"] == result["temperature_mc_after"] == []


def test_odd_bytes_in_a_path_still_give_json(bench_result: Bench, bench_models: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b'/\xff "\xc3\xa9\n\\'))
    odd.mkdir()
    model = odd / "m.tflite"
    model.write_bytes((bench_models / "convnet.tflite").read_bytes())
    path = bench_result(model=model)["model"]["path"]
    assert path.endswith('/\N{REPLACEMENT CHARACTER} "é\n\\/m.tflite')

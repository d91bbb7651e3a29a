"""Reading Google's benchmark_model."""

import pytest

from android_bench.adapter import BenchmarkModelResult, parse_benchmark_model
from android_bench.errors import BenchOutputError

# The lines' forms are those of tflite/tools/benchmark and tsl's stat_summarizer; the numbers are made up.
NEW = """INFO: Loaded model m.tflite
INFO: count=1 curr=281000
INFO: count=50 first=266601 curr=266931 min=265837 max=268116 avg=266473 std=419 p5=265900 median=266450 p95=267900
INFO: Inference timings in us: Init: 12345, First inference: 281000, Warmup (avg): 281000, Inference (avg): 266473
"""
OLD = """count=3 first=9 curr=8 min=8 max=9 avg=8.5 std=0
count=120 first=1.2e+06 curr=1190000 min=1180000 max=1.23457e+06 avg=1.2e+06 std=900
Inference timings in us: Init: 1500, First inference: 2e+06, Warmup (avg): 1.9e+06, Inference (avg): 1.2e+06
"""


def test_new_build() -> None:
    assert parse_benchmark_model(NEW) == BenchmarkModelResult(
        12345, 281000, 281000, 266473, 50, 265837, 268116, 419, 265900, 266450, 267900
    )


def test_old_build_without_prefix_or_percentiles() -> None:
    result = parse_benchmark_model(OLD)
    assert (result.runs, result.avg_us, result.max_us, result.median_us) == (120, 1.2e6, 1234570.0, None)


def test_timings_alone() -> None:
    assert parse_benchmark_model(OLD.splitlines()[-1]).runs is None


@pytest.mark.parametrize("text", ["", "ERROR: Failed to load model", "count=50 first=1"])
def test_failed_run(text: str) -> None:
    with pytest.raises(BenchOutputError, match="stderr"):
        parse_benchmark_model(text)

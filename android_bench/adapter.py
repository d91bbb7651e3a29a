"""Parses the output of Google's benchmark_model, for comparing it with android_bench on a new phone.

It prints no samples. Old and new builds differ in prefixes ("INFO: "), in where lines begin and in which statistics
they give, so nothing here depends on the beginning of a line, and the last line of statistics (the measured one; the
first is the warm-up) is the one that counts.
"""

import re
from dataclasses import dataclass

from android_bench.errors import BenchOutputError

NUMBER = r"([\d.]+(?:[eE][+-]?\d+)?)"  # large ones come as 1.23457e+06
TIMINGS = re.compile(
    rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, "
    rf"Warmup \(avg\): {NUMBER}, Inference \(avg\): {NUMBER}"
)
STATISTICS = re.compile(r"\bcount=(\d+)((?: \w+=\S+)*)")
PAIR = re.compile(rf"(\w+)={NUMBER}")


@dataclass(frozen=True)
class BenchmarkModelResult:
    """The result of benchmark_model for one model; None for what its build does not print."""

    init_us: float
    first_us: float
    warmup_avg_us: float
    avg_us: float
    runs: int | None = None
    min_us: float | None = None
    max_us: float | None = None
    std_us: float | None = None
    p5_us: float | None = None
    median_us: float | None = None
    p95_us: float | None = None


def parse_benchmark_model(text: str) -> BenchmarkModelResult:
    """The result in benchmark_model's stdout. Raises BenchOutputError if it has none (a run that failed)."""
    timings = TIMINGS.search(text)
    if timings is None:
        raise BenchOutputError("this is no output of a benchmark_model run that succeeded: look at its stderr")
    init_us, first_us, warmup_avg_us, avg_us = map(float, timings.groups())
    result = BenchmarkModelResult(init_us, first_us, warmup_avg_us, avg_us)
    statistics = STATISTICS.findall(text)
    if not statistics:
        return result
    runs, pairs = statistics[-1]
    given = {name: float(value) for name, value in PAIR.findall(pairs)}
    return BenchmarkModelResult(
        init_us,
        first_us,
        warmup_avg_us,
        avg_us,
        runs=int(runs),
        min_us=given.get("min"),
        max_us=given.get("max"),
        std_us=given.get("std"),
        p5_us=given.get("p5"),
        median_us=given.get("median"),
        p95_us=given.get("p95"),
    )

"""The per-operation profile of android_bench."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bench = Callable[..., dict[str, Any]]


@pytest.mark.medium
def test_ordinary_run_has_no_profile(bench_result: Bench) -> None:
    result = bench_result()
    assert result["profile"] is None
    assert result["profiled"] is False


@pytest.mark.medium
def test_operations_are_in_execution_order_and_fire_once_a_run(bench_result: Bench) -> None:
    result = bench_result(profile=True, runs=12)
    profile = result["profile"]
    assert result["profiled"] is True
    assert profile["runs"] == result["runs"] == 12
    assert [op["tag"].split(" (")[0] for op in profile["ops"]] == [
        "Convolution",
        "HardSwish",
        "Fully Connected",  # what XNNPACK makes of a 1x1 convolution
        "Static Reshape",
        "Static Reshape",  # a dense layer flattens its input
        "Fully Connected",
    ]
    for place, op in enumerate(profile["ops"]):
        assert (op["node"], op["partition"], op["parent"], op["kind"]) == (place, 0, -1, "delegate")
        assert op["count"] == 12
        assert op["per_run"] == 1
        assert op["total_us"] == round(op["avg_us"] * 12)
        assert op["min_us"] <= op["median_us"]


@pytest.mark.medium
def test_sum_of_operations_is_given_and_within_the_invoke(bench_result: Bench) -> None:
    profile = bench_result(profile=True, runs=20)["profile"]
    total = sum(op["total_us"] for op in profile["ops"]) / profile["runs"]
    assert abs(profile["ops_avg_us"] - total) < 1e-2
    assert profile["ops_avg_us"] <= profile["invoke_avg_us"]
    assert profile["spans"] == []


@pytest.mark.medium
def test_operations_have_the_number_of_their_partition(bench_result: Bench, bench_models: Path) -> None:
    """Both convolutions are node 0 of their own partition; the node between them is the interpreter's."""
    ops = bench_result(model=bench_models / "split.tflite", profile=True)["profile"]["ops"]
    assert [(op["partition"], op["node"], op["kind"]) for op in ops] == [
        (0, 0, "delegate"),
        (-1, 1, "node"),  # its index among the operations of the file
        (1, 0, "delegate"),
    ]
    assert ops[1]["tag"] == "SIGN"
    assert all(op["per_run"] == 1 for op in ops)


@pytest.mark.medium
def test_many_runs_lose_no_event(bench_result: Bench) -> None:
    """LiteRT's buffer holds half a million events and drops the rest; this is more."""
    profile = bench_result(profile=True, runs=55_000)["profile"]
    assert {op["count"] for op in profile["ops"]} == {55_000}

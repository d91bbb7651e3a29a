"""Taking turns, and what is made of the samples. No time is tested, only what is done with times."""

import os
import time
from collections import Counter

import numpy as np
import pytest

from benchmarks.correlation import normalised_ms
from benchmarks.interleave import VARIABLE, fastest, interleave_files, pinned, rounds, spread
from benchmarks.latency import requirements
from benchmarks.report import Requirement, bars
from benchmarks.tiles import fully_connected
from elasticvit.errors import ExportError
from elasticvit.timing import interleave, litert_run, lower_bound


def test_every_contestant_is_called_once_a_round_in_changing_order() -> None:
    calls: list[str] = []
    contestants = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = interleave(contestants, 5, warm_up=2)
    turns = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert all(Counter(turn) == Counter("abc") for turn in turns) and len(turns) == 7
    assert len(set(turns)) > 1
    assert {name: times.shape for name, times in samples.items()} == dict.fromkeys("abc", (5,))


def test_pinning_is_undone_and_never_wider_than_allowed() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ValueError, match="cannot pin to"), pinned(len(before) + 1):
        pass


def test_the_round_count_may_be_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert rounds(50) == 50
    monkeypatch.setenv(VARIABLE, "7")
    assert rounds(50) == 7


def test_of_several_runs_in_a_turn_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns, calls = 0, 0
    monkeypatch.setattr(time, "thread_time_ns", lambda: now_ns)

    def run() -> None:
        nonlocal now_ns, calls
        now_ns += (9, 3, 2)[calls % 3] * 1_000_000
        calls += 1

    done: list[tuple[int, int]] = []
    samples = interleave({"a": run}, 4, runs_in_turn=3, on_round=lambda *rounds: done.append(rounds))
    assert samples["a"].tolist() == [2.0] * 4 and calls == 3 * 5
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert interleave({"a": run}, 3)["a"].tolist() == [3.0, 2.0, 9.0]


def test_a_file_is_run_by_a_call() -> None:
    run = litert_run(fully_connected(3, 8, 4))
    assert run() is None
    with pytest.raises(ExportError, match="LiteRT does not run three"):
        litert_run(fully_connected(3, 8, 4)[:100], name="three")


@pytest.mark.medium
def test_files_are_timed_in_processes_of_their_own_and_keep_their_names() -> None:
    files = {"large": fully_connected(64, 512, 512), "small": fully_connected(1, 8, 8)}
    samples = interleave_files(files, count=10, threads=1)
    assert list(samples) == ["large", "small"] and all(len(times) >= 10 for times in samples.values())
    # Four orders of magnitude more work: names that were mixed up would show.
    assert np.median(samples["large"]) > np.median(samples["small"])


def test_spread_and_fastest_are_by_percentiles() -> None:
    samples = {"a x": np.arange(1.0, 102.0), "b x": np.full(101, 50.0)}
    assert spread(samples["a x"]) == {"median_ms": 51.0, "p5_ms": 6.0, "p95_ms": 96.0}
    assert fastest(samples, ["a x", "b x"]) == "b x"


@pytest.mark.medium
def test_the_lower_bound_lies_below_the_median_and_closes_in_with_more_rounds() -> None:
    rng = np.random.default_rng(0)
    few, many = 1.06 + 0.1 * rng.standard_normal(20), 1.06 + 0.1 * rng.standard_normal(2000)
    assert lower_bound(np.full(30, 1.25)) == 1.25
    assert lower_bound(few) < np.median(few) and lower_bound(many) < np.median(many)
    assert np.median(few) - lower_bound(few) > np.median(many) - lower_bound(many)
    # Bounds of equal networks stay below one in about nineteen runs of twenty.
    above = [lower_bound(1 + 0.05 * rng.standard_normal(60), seed=seed) > 1 for seed in range(50)]
    assert sum(above) <= 7


def test_a_requirement_is_checked_against_the_unrounded_figure() -> None:
    assert Requirement("x", 1.6, "at least", 1.6).met
    assert not Requirement("x", 1.5999, "at least", 1.6).met and not Requirement("x", 1.0, "above", 1.0).met
    assert Requirement("x", 1.15, "at most", 1.15).met and not Requirement("x", 1.1501, "at most", 1.15).met
    assert Requirement("x", 1.5999, "at least", 1.6).figure() == {
        "name": "x",
        "value": 1.6,
        "relation": "at least",
        "bound": 1.6,
        "goal": False,
        "met": False,
    }


def test_bars_are_sorted_and_say_shares_of_the_whole() -> None:
    lines = bars({"small": 1.0, "large": 3.0}, "us")
    assert [line.split()[0] for line in lines] == ["large", "small"]
    assert "75.0 %" in lines[0] and lines[0].count("#") == 30 and lines[1].count("#") == 10


@pytest.mark.medium
def test_ratios_are_of_rounds_and_take_the_best_precision_of_a_peer() -> None:
    drift = np.linspace(1, 2, 40)
    samples = {
        "S1 float32": 10 * drift,
        "S1 dynamic_int8": 5 * drift,
        "EfficientNet-B0 float32": 17 * drift,
        "EfficientNet-B0 int8": 8 * drift,
        "EfficientNet-B0 dynamic_int8 FC": 12 * drift,
        "naive S1 float32": 11 * drift,
    }
    by_name = {str(row["name"]): row for row in requirements(samples)}
    assert by_name["EfficientNet-B0 float32 / S1 float32"]["value"] == 1.7
    assert by_name["EfficientNet-B0 float32 / S1 float32"]["met"]
    assert by_name["EfficientNet-B0 best / S1 dynamic_int8"]["value"] == 1.6
    assert by_name["naive S1 / S1 float32, 95 % lower bound"]["value"] == 1.1
    assert by_name["MobileNetV3-Large best / S1 dynamic_int8"]["value"] == "not given"
    assert by_name["T1 float32 / T1 dynamic_int8"]["value"] == "not given"


def test_a_slow_phase_of_the_machine_moves_no_network() -> None:
    quiet = {"network": np.full(5, 20.0), "anchor": np.full(5, 4.0)}
    busy = {"network": np.full(5, 40.0), "anchor": np.full(5, 8.0)}
    large = {"network": np.full(5, 30.0), "anchor": np.full(5, 4.0)}
    assert normalised_ms([quiet, busy, large]).tolist() == [20.0, 20.0, 30.0]

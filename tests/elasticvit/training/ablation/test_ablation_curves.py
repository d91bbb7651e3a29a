"""Learning curves, from results that nobody had to train."""

from dataclasses import replace
from pathlib import Path

import pytest

from elasticvit.training.ablation.curves import curve_tables, interpolated, reached, work_budgets
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.plots import plot
from elasticvit.training.ablation.records import Results, TeacherTrained, append, load
from elasticvit.training.ablation.show import rendered
from tests.elasticvit.training.ablation.tiny_ablation import made_up, tiny_fair_plan, tiny_plan, with_curves


@pytest.fixture
def plan() -> Plan:
    return tiny_fair_plan(steps=2, curve=(1, 2))


@pytest.fixture
def results(plan: Plan) -> Results:
    return with_curves(plan, made_up(plan))


def test_curves_are_read_as_they_were_written(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "fair.jsonl"
    results.teacher = TeacherTrained(11.3, 2, 0.5, 0.4, 7.0)
    append(path, results.conditions)
    append(path, results.teacher)
    append(path, replace(results.supernet_runs[0], device="CPU"))
    loaded = load(path)
    assert loaded and loaded.teacher == results.teacher
    assert loaded.supernet_runs == [replace(results.supernet_runs[0], device="CPU")]


def test_lines_of_the_short_plan_are_what_they_were(tmp_path: Path) -> None:
    """A run without a curve is written without the fields of one."""
    path = tmp_path / "results.jsonl"
    append(path, made_up(tiny_plan()).supernet_runs[0])
    assert "curve" not in path.read_text() and "device" not in path.read_text()


def test_equal_images_are_compared_by_steps(plan: Plan, results: Results) -> None:
    made = {table.title: table for table in curve_tables(plan, results)}
    best = made["By steps: top-1 on val of the best sub-network of a level, %"]
    # 20 and 30 % after one step, 30 and 40 % after two; seeds 10 points apart have an interval of 63.5.
    assert best.rows[0] == ("sandwich rule, 1 steps", *["25.0 ± 63.5"] * 3)
    assert ("sandwich rule, 2 steps", *["35.0 ± 63.5"] * 3) in best.rows
    differences = made["By steps: top-1 on val of the best sub-network of a level, %: paired differences, points"]
    assert ("adjacent step − sandwich rule, 1 steps", *["+10.0 ± 0.0"] * 3) in differences.rows


def test_equal_work_is_compared_between_measurements(plan: Plan, results: Results) -> None:
    """The cheapest methods end at 2 · 10^12, which is half-way, in the logarithm, between the sandwich's 1 and 4."""
    assert work_budgets(results.supernet_runs) == [2.0]
    sandwich, adjacent = (next(t for t in results.supernet_runs if t.config == c) for c in ("sandwich", "adjacent"))
    assert interpolated(sandwich, 2.0, "best") == pytest.approx([25, 25, 25])
    assert interpolated(adjacent, 2.0, "best") == pytest.approx([40, 40, 40])
    assert interpolated(sandwich, 4.0, "best") == pytest.approx(reached(sandwich, 2, "best"))
    made = {table.title: table for table in curve_tables(plan, results)}
    rows = made["By work, 10^12 MACs: top-1 on val of the best sub-network of a level, %: paired differences, points"]
    assert rows.rows[0] == ("adjacent step − sandwich rule, 2 T", *["+15.0 ± 0.0"] * 3)


def test_a_plan_that_measures_at_the_end_alone_has_no_curves() -> None:
    assert curve_tables(tiny_plan(), made_up(tiny_plan())) == []


def test_runs_that_are_missing_are_named(plan: Plan, results: Results) -> None:
    results.teacher = TeacherTrained(11.3, 2, 0.5, 0.4, 7.0)
    assert "Not finished" not in rendered(plan, results, 2)
    assert "40.0 % top-1 on val" in rendered(plan, results, 2)
    results.supernet_runs = [
        supernet_run for supernet_run in results.supernet_runs if (supernet_run.config, supernet_run.seed) != ("hss", 1)
    ]
    assert "Not finished: + HSS 1." in rendered(plan, results, 2)


@pytest.mark.medium
def test_curves_are_drawn_beside_the_other_plots(plan: Plan, results: Results, tmp_path: Path) -> None:
    names = [path.name for path in plot(plan, results, tmp_path)]
    assert names == [
        "fair-table3.svg",
        "fair-table4.svg",
        "fair-figure2b.svg",
        "fair-table5.svg",
        "fair-curves-steps.svg",
        "fair-curves-work.svg",
    ]
    again = plot(plan, results, tmp_path / "again")
    assert (tmp_path / names[-1]).read_bytes() == again[-1].read_bytes()

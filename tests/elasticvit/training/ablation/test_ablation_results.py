from pathlib import Path

import pytest

from elasticvit.errors import DataError
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.plots import plot
from elasticvit.training.ablation.records import Conditions, Record, append, load
from elasticvit.training.ablation.show import ablate, chosen_plan, rendered
from elasticvit.training.ablation.tables import binned, gaps_of, tables
from tests.elasticvit.training.ablation.tiny_ablation import made_up, tiny_plan


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results, path = made_up(tiny_plan()), tmp_path / "a" / "results.jsonl"
    assert results.floors
    records: list[Record | Conditions] = [results.conditions, results.floors, *results.supernet_runs, *results.scratch]
    for record in records:
        append(path, record)
    assert load(path) == results
    assert Plan.from_json(results.conditions.plan) == tiny_plan()


def test_a_line_torn_by_a_kill_is_dropped_and_the_next_one_stands(tmp_path: Path) -> None:
    results, path = made_up(tiny_plan()), tmp_path / "results.jsonl"
    append(path, results.conditions)
    append(path, results.supernet_runs[0])
    with path.open("a") as file:
        file.write('{"kind": "trial", "conf')
    append(path, results.supernet_runs[1])
    loaded = load(path)
    assert loaded and loaded.supernet_runs == results.supernet_runs[:2]


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": "trial"}\n')
    with pytest.raises(DataError, match="no result"):
        load(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="how its results were made"):
        load(path)
    assert load(tmp_path / "none") is None
    with pytest.raises(DataError, match="--run"):
        ablate(tmp_path / "none", train=False, steps=None, seeds=3, classes=None)


def test_results_of_other_settings_are_not_continued(tmp_path: Path) -> None:
    results = made_up(tiny_plan())
    assert chosen_plan(results, None, None) == tiny_plan()
    assert chosen_plan(None, 7, 5) == Plan(steps=7, data="tiny-imagenet:5@48", space=chosen_plan(None, 7, 5).space)
    assert chosen_plan(None, 7, 5).space.classes == 5
    with pytest.raises(DataError, match="other settings"):
        chosen_plan(results, 3, None)


def test_tables_hold_what_can_be_worked_out_by_hand() -> None:
    plan = tiny_plan()
    made = {table.title: table for table in tables(plan, made_up(plan))}
    best = made["Table 3: top-1 on val of the best sub-network of a level, %"]
    # 30 and 40 %: a standard deviation of 7.07 over √2 seeds, times Student's 12.706.
    assert best.head == ("", "0.2 M", "0.4 M", "all")
    assert best.rows[0] == ("sandwich rule", "35.0 ± 63.5", "35.0 ± 63.5", "35.0 ± 63.5")
    differences = made["Table 3: top-1 on val of the best sub-network of a level, %: paired differences, points"]
    assert differences.rows[0] == ("adjacent step − sandwich rule", *["+10.0 ± 0.0"] * 3)
    assert differences.rows[3] == ("++ performance-aware − sandwich rule", *["+30.0 ± 0.0"] * 3)
    similar = made["Table 4: cosine similarity of gradients within a level"]
    assert similar.rows[0] == ("sandwich rule", "0.200 ± 0.000", "0.400 ± 0.000")
    assert similar.rows[-1] == ("all parts − sandwich rule, paired", "+0.300 ± 0.000", "+0.300 ± 0.000")
    scratch = made["Table 5: top-1 on val, inherited or trained from scratch, %"]
    assert scratch.rows[-1] == ("inherited − from scratch, paired", "+30.0 ± 0.0")


def test_pairs_are_binned_by_their_difference() -> None:
    supernet_run = made_up(tiny_plan()).supernet_runs[0]
    assert gaps_of(supernet_run) == [(1.0, 0.6), (3.0, 0.1), (2.0, 0.3)]
    assert binned(supernet_run, [1.0, 2.0, 3.0]) == pytest.approx([0.6, 0.2])


@pytest.mark.medium
def test_missing_results_leave_gaps_and_no_errors(tmp_path: Path) -> None:
    plan, results = tiny_plan(), made_up(tiny_plan())
    results.supernet_runs, results.scratch = results.supernet_runs[:1], []
    assert "adjacent" not in rendered(plan, results)
    assert [path.name for path in plot(plan, results, tmp_path)] == ["table3.svg", "table4.svg", "figure2b.svg"]


@pytest.mark.medium
def test_the_same_results_give_the_same_plots(tmp_path: Path) -> None:
    plan, results = tiny_plan(), made_up(tiny_plan())
    first = plot(plan, results, tmp_path / "first")
    second = plot(plan, results, tmp_path / "second")
    assert [path.name for path in first] == ["table3.svg", "table4.svg", "figure2b.svg", "table5.svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert a.read_text().startswith("<?xml")

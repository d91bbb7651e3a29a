"""docs/ablation.md agrees with its committed results."""

from pathlib import Path

import pytest

from elasticvit.training.ablation.plan import CONFIGS, Plan
from elasticvit.training.ablation.plots import plot
from elasticvit.training.ablation.records import load
from elasticvit.training.ablation.run import RESULTS
from elasticvit.training.ablation.show import rendered

DOCS = Path(__file__).parents[4] / "docs"


@pytest.mark.medium
def test_the_page_has_the_tables_and_plots_of_its_results(tmp_path: Path) -> None:
    results = load(DOCS / "ablation" / RESULTS)
    assert results is not None
    plan, page = Plan.from_json(results.conditions.plan), (DOCS / "ablation.md").read_text()
    assert rendered(plan, results) in page
    for drawn in plot(plan, results, tmp_path):
        assert (DOCS / "ablation" / drawn.name).is_file() and f"(ablation/{drawn.name})" in page


def test_all_that_was_planned_was_run() -> None:
    results = load(DOCS / "ablation" / RESULTS)
    assert results is not None
    plan = Plan.from_json(results.conditions.plan)
    assert {(t.config, t.seed) for t in results.supernet_runs} == {
        (config, seed) for config in CONFIGS for seed in range(3)
    }
    assert {(s.seed, s.target, s.steps) for s in results.scratch} == {
        (seed, target, plan.steps * factor)
        for seed in range(3)
        for target in plan.scratch
        for factor in plan.scratch_factors
    }

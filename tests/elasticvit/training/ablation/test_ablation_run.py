from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from elasticvit.costs.flops import paper_mflops
from elasticvit.errors import DataError, StoppedError
from elasticvit.training.ablation.floors import as_floors
from elasticvit.training.ablation.plan import CONFIGS, Plan
from elasticvit.training.ablation.records import Results, load
from elasticvit.training.ablation.run import RESULTS, run
from elasticvit.training.ablation.supernet_run import candidates
from tests.elasticvit.training.ablation.tiny_ablation import tiny_plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Results, Path]:
    out = tmp_path_factory.mktemp("ablation")
    run(tiny_plan(), 1, out)
    results = load(out / RESULTS)
    assert results
    return tiny_plan(), results, out


@pytest.mark.medium
def test_a_run_makes_all_there_is(made: tuple[Plan, Results, Path]) -> None:
    plan, results, out = made
    assert [(t.config, t.seed) for t in results.supernet_runs] == [(config, 0) for config in CONFIGS]
    assert [(s.seed, s.target, s.steps) for s in results.scratch] == [(0, 0.4, 2)]
    assert [path.name for path in out.iterdir()] == [RESULTS]
    for supernet_run in results.supernet_runs:
        assert [level.target for level in supernet_run.levels] == list(plan.levels)
        for level in supernet_run.levels:
            assert level.search[level.best] == max(level.search)
            assert 0 <= level.val <= 1
        assert all(-1 <= c <= 1 for c in supernet_run.pairs.cosines)


@pytest.mark.medium
def test_all_configurations_measure_the_same_networks(made: tuple[Plan, Results, Path]) -> None:
    plan, results, _ = made
    measured = {tuple(level.candidates for level in supernet_run.levels) for supernet_run in results.supernet_runs}
    assert len(measured) == 1
    assert results.floors
    floors = as_floors(plan, results.floors)
    assert floors[0][1] == plan.space.smallest()
    for target in plan.levels:
        codes = candidates(plan, floors, target, 0)
        assert len(codes) == 2 * plan.candidates
        costs = [paper_mflops(plan.space.decode(code)) for code in codes]
        assert all(target <= cost <= target + plan.band for cost in costs)


@pytest.mark.medium
def test_a_run_goes_on_where_it_stopped(made: tuple[Plan, Results, Path], tmp_path: Path) -> None:
    plan, whole, out = made
    lines = (out / RESULTS).read_text().splitlines(keepends=True)
    # Conditions, floors and two runs are there; the third stops in the middle of its training.
    (tmp_path / RESULTS).write_text("".join(lines[:4]))
    calls = count()
    with pytest.raises(StoppedError, match="step 1 of 2"):
        run(plan, 1, tmp_path, stop=lambda: next(calls) == 1)
    assert [path.name for path in tmp_path.glob(".*")] == [".hss-0.checkpoint"]
    run(plan, 1, tmp_path)
    assert not list(tmp_path.glob(".*"))
    results = load(tmp_path / RESULTS)
    assert results
    assert [replace(supernet_run, seconds=0) for supernet_run in results.supernet_runs] == [
        replace(supernet_run, seconds=0) for supernet_run in whole.supernet_runs
    ]
    assert [s.val for s in results.scratch] == [s.val for s in whole.scratch]


@pytest.mark.medium
def test_other_settings_and_other_images_are_refused(made: tuple[Plan, Results, Path]) -> None:
    _, _, out = made
    with pytest.raises(DataError, match="other settings"):
        run(tiny_plan(steps=3), 1, out)
    with pytest.raises(DataError, match="classes"):
        run(tiny_plan(data="digits", space=Plan().space), 1, out)

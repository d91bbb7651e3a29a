"""The plan `fair`: an external teacher, learning curves, and runs that any number of processes share."""

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from elasticvit.costs.flops import macs, paper_mflops
from elasticvit.data.image_set import digits
from elasticvit.errors import DataError, StoppedError
from elasticvit.progress import Step
from elasticvit.training.ablation.estimate import hours_left
from elasticvit.training.ablation.files import RunFiles, held, holder
from elasticvit.training.ablation.floors import META_SEED
from elasticvit.training.ablation.plan import CONFIGS, Plan, fair_plan, short_plan
from elasticvit.training.ablation.records import Record, Results, SupernetRun, load
from elasticvit.training.ablation.run import results_file, run
from elasticvit.training.ablation.tasks import all_tasks, pending
from elasticvit.training.ablation.teacher import TEACHER_FILE
from elasticvit.training.ablation.workers import run_together
from elasticvit.training.loop import train
from elasticvit.training.teachers import load_teacher
from tests.elasticvit.training.ablation.tiny_ablation import tiny_fair_plan

PROCESS = "tests.elasticvit.training.ablation.fair_process"
pytestmark = pytest.mark.timeout(900)
CPU = torch.device("cpu")
LAST = "++ performance-aware 0"


def _process(out: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", PROCESS, str(out), *arguments], stdout=subprocess.PIPE, text=True)


def _results(out: Path) -> Results:
    results = load(out / "fair.jsonl")
    assert results
    return results


def _timeless(record: Record) -> object:
    """A record without how long it took."""
    if not isinstance(record, SupernetRun):
        return replace(record, seconds=0)
    curve = tuple(replace(row, seconds=0, core_seconds=0, evaluation_s=0) for row in record.curve)
    return replace(record, seconds=0, curve=curve)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("fair")
    run(tiny_fair_plan(), 1, out)
    return out


def _first_runs(whole: Path, out: Path, lines: int) -> None:
    """Results as they were after some lines: conditions, teacher, floors, then the runs."""
    kept = (whole / "fair.jsonl").read_text().splitlines(keepends=True)[:lines]
    (out / "fair.jsonl").write_text("".join(kept))
    (out / TEACHER_FILE).write_bytes((whole / TEACHER_FILE).read_bytes())


def test_the_fair_plan_has_the_specified_settings() -> None:
    plan, short = fair_plan(), short_plan()
    cheapest, dearest = paper_mflops(plan.space.smallest()), paper_mflops(plan.space.largest())
    assert dearest / cheapest >= 40
    assert plan.space.largest() == short.space.largest()
    for (_, wide), (_, narrow) in zip(plan.space.dimensions, short.space.dimensions, strict=True):
        assert set(narrow) <= set(wide)
    assert plan.steps == 8000 and plan.curve == (500, 1000, 2000, 4000, 8000)
    assert (plan.lr, plan.batch, plan.data) == (short.lr, short.batch, short.data)
    assert Plan.from_json(plan.identity()) == plan
    for config in CONFIGS:
        loss = plan.recipe(config, ((1.2, plan.space.smallest()),), 0, 8998).loss
        assert (loss.distil, loss.inplace) == (1.0, "alpha")


@pytest.mark.long
def test_all_runs_are_made_and_nothing_else_is_left(whole: Path) -> None:
    results, plan = _results(whole), tiny_fair_plan()
    assert sorted(path.name for path in whole.iterdir()) == ["fair.jsonl", TEACHER_FILE]
    assert not pending(plan, 1, results)
    assert results.teacher and results.teacher.mflops == pytest.approx(paper_mflops(plan.space.largest()), abs=1e-4)
    for supernet_run in results.supernet_runs:
        assert [row.steps for row in supernet_run.curve] == [10, 20]
        last = supernet_run.curve[-1]
        assert [(p.search, p.val) for p in last.levels] == [(level.search, level.val) for level in supernet_run.levels]
        assert (last.smallest, last.largest) == (supernet_run.smallest, supernet_run.largest)
        assert supernet_run.seconds > last.seconds > supernet_run.curve[0].seconds > 0


@pytest.mark.long
def test_the_teacher_of_the_record_is_the_one_in_the_file(whole: Path) -> None:
    results, data = _results(whole), digits()
    teacher = load_teacher(whole / TEACHER_FILE, data, CPU)
    answers = teacher(data.scaled(data.val.images)).argmax(1)
    assert results.teacher
    assert float((answers == data.val.labels).float().mean()) == pytest.approx(results.teacher.val, abs=2e-3)


@pytest.mark.long
def test_work_is_counted_by_what_the_steps_trained(whole: Path) -> None:
    """The sandwich's ends are in every step; its two random networks cost something between them."""
    plan = tiny_fair_plan()
    small, large = macs(plan.space.smallest()), macs(plan.space.largest())
    sandwich = _results(whole).supernet_run("sandwich", 0)
    assert sandwich
    for row in sandwich.curve:
        images = row.steps * plan.batch
        teacher = large
        assert images * (teacher + 3 * (large + 3 * small)) <= row.macs <= images * (teacher + 3 * (3 * large + small))


@pytest.mark.long
def test_the_external_teacher_changes_what_is_learned(whole: Path) -> None:
    plan, data = tiny_fair_plan(), digits()
    recipe = replace(plan, steps=2).recipe("adjacent", (), META_SEED, len(data.train))
    teacher = load_teacher(whole / TEACHER_FILE, data, CPU)
    losses: dict[bool, list[float | None]] = {True: [], False: []}
    for taught, seen in losses.items():

        def report(step: Step, seen: list[float | None] = seen) -> None:
            seen.append(step.loss)

        train(recipe, data, report=report, teachers=[teacher] if taught else [])
    assert losses[True] != losses[False]


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Killed after step 13: the last checkpoint is of step 12, behind the measurement at step 10."""
    _first_runs(whole, tmp_path, 6)
    killed = _process(tmp_path, "--die-at", "13")
    assert killed.wait(300) == -signal.SIGKILL
    left = {path.suffix for path in tmp_path.glob(".fair-performance-0.*")}
    assert {".checkpoint", ".work", ".curve", ".lock"} <= left
    again = _process(tmp_path)
    output, _ = again.communicate(timeout=800)
    assert again.returncode == 0
    assert f"{LAST} resumes from step 12" in output
    assert [_timeless(t) for t in _results(tmp_path).supernet_runs] == [
        _timeless(t) for t in _results(whole).supernet_runs
    ]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.long
@pytest.mark.slow
def test_a_terminated_run_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    _first_runs(whole, tmp_path, 6)
    process = _process(tmp_path)
    assert process.stdout
    assert f"{LAST} begins" in process.stdout.readline()
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3 and "stopped" in output
    assert not list(tmp_path.glob(".*.lock"))
    run(tiny_fair_plan(), 1, tmp_path)
    supernet_run, expected = (_results(out).supernet_run("performance", 0) for out in (tmp_path, whole))
    assert supernet_run and expected and _timeless(supernet_run) == _timeless(expected)


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_share_the_runs_and_make_none_twice(whole: Path, tmp_path: Path) -> None:
    _first_runs(whole, tmp_path, 5)
    before = _results(tmp_path)
    processes = [_process(tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    begun = Counter(
        line.split(" begins")[0] for output in outputs for line in output.splitlines() if " begins (" in line
    )
    made = {task.label for task in pending(tiny_fair_plan(), 1, before)}
    assert len(made) == 3 and begun == Counter(made)
    assert len((tmp_path / "fair.jsonl").read_text().splitlines()) == 8
    by_config = {t.config: _timeless(t) for t in _results(tmp_path).supernet_runs}
    assert by_config == {t.config: _timeless(t) for t in _results(whole).supernet_runs}


@pytest.mark.long
@pytest.mark.slow
def test_workers_of_one_command_stop_together_and_go_on(whole: Path, tmp_path: Path) -> None:
    _first_runs(whole, tmp_path, 6)
    plan = tiny_fair_plan()
    with pytest.raises(StoppedError):
        run_together(plan, 1, tmp_path, 2, stop=lambda: True)
    assert not list(tmp_path.glob(".*.lock"))
    run_together(plan, 1, tmp_path, 2, stop=lambda: False)
    assert not pending(plan, 1, _results(tmp_path))
    assert len(_results(tmp_path).supernet_runs) == len(CONFIGS)


def test_a_lock_is_held_by_one_and_taken_over_from_the_dead(tmp_path: Path) -> None:
    lock = RunFiles(tmp_path, "fair sandwich 0").lock
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock.write_text(f"{dead.pid}\n")
    with held(lock) as mine:
        assert mine and holder(lock) == str(os.getpid())
        with held(lock) as another:
            assert not another
        assert lock.exists()
        code = "import sys; from pathlib import Path; from elasticvit.training.ablation.files import held\n"
        code += "with held(Path(sys.argv[1])) as mine: print(mine)"
        foreign = subprocess.run([sys.executable, "-c", code, str(lock)], capture_output=True, text=True, check=True)
        assert foreign.stdout.strip() == "False"
    assert not lock.exists()
    with held(lock) as mine:
        assert mine


def test_a_killed_holder_frees_its_run(tmp_path: Path) -> None:
    lock = tmp_path / ".run.lock"
    code = "import sys, time; from pathlib import Path; from elasticvit.training.ablation.files import held\n"
    code += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    with held(lock) as mine:
        assert not mine and holder(lock) == str(process.pid)
    process.kill()
    process.wait()
    assert lock.exists()
    with held(lock) as mine:
        assert mine


@pytest.mark.long
def test_hours_left_follow_from_what_was_measured(whole: Path, tmp_path: Path) -> None:
    plan, results = tiny_fair_plan(), _results(whole)
    assert hours_left(plan, 1, results, tmp_path) == 0
    assert hours_left(plan, 1, Results(results.conditions), tmp_path) is None
    seconds = {t.config: t.seconds for t in results.supernet_runs}
    scratch = sum(s.seconds for s in results.scratch)
    expected = sum(seconds.values()) + scratch
    # Floors are a sandwich too, of 5 steps.
    assert results.floors
    expected += (results.floors.seconds + seconds["sandwich"]) / 25 * 20 - seconds["sandwich"]
    assert hours_left(plan, 2, results, tmp_path) == pytest.approx(expected / 3600, rel=1e-3)


@pytest.mark.long
def test_a_missing_teacher_and_another_plan_are_refused(whole: Path, tmp_path: Path) -> None:
    _first_runs(whole, tmp_path, 3)
    (tmp_path / TEACHER_FILE).unlink()
    with pytest.raises(DataError, match=r"teacher\.safetensors"):
        run(tiny_fair_plan(), 1, tmp_path)
    with pytest.raises(DataError, match="other settings"):
        run(tiny_fair_plan(steps=30), 1, tmp_path)


def test_plans_of_one_folder_have_files_of_their_own() -> None:
    assert (results_file("short"), results_file("fair")) == ("results.jsonl", "fair.jsonl")
    files = {task.files(plan, Path()).checkpoint for plan in (fair_plan(), short_plan()) for task in all_tasks(plan, 1)}
    assert len(files) == sum(len(list(all_tasks(plan, 1))) for plan in (fair_plan(), short_plan()))

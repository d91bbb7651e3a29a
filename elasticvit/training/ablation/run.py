"""Makes the runs that a plan still lacks, one at a time; each result is kept as soon as it is there.

Several processes may do so in one folder: each takes the next run that nobody has finished or holds.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError, StoppedError
from elasticvit.progress import Report, Say, Step, Stop, never, silent, unheard
from elasticvit.training.ablation.estimate import hours_left
from elasticvit.training.ablation.files import held, holder
from elasticvit.training.ablation.plan import Plan, PlanName
from elasticvit.training.ablation.records import Conditions, Results, append, load
from elasticvit.training.ablation.supernet_run import device_name
from elasticvit.training.ablation.tasks import Task, is_done, is_ready, maker, names, pending
from elasticvit.training.ablation.work import spent
from elasticvit.training.checkpoints import load_checkpoint

RESULTS = "results.jsonl"
POLL_S = 2.0
"""How often a process looks again that waits for runs of others."""
LINE_EVERY_S = 300.0
"""How often a plan that takes hours says how far it is."""


def results_file(name: PlanName) -> str:
    """Where a plan's results lie in the folder of results."""
    return RESULTS if name == "short" else f"{name}.jsonl"


def to_stderr(line: str) -> None:
    """A line with the time of day, at once also where standard error is a file."""
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")
    sys.stderr.flush()


def run(
    plan: Plan, seeds: int, out: Path, *, report: Report = silent, stop: Stop = never, say: Say = unheard
) -> Results:
    """Make all results of seeds 0 to `seeds` - 1 that the folder `out` lacks; where other processes hold the last ones,
    wait for them.

    Args:
        say: gets a line when a run begins and ends, and every five minutes, with the hours that are left.

    Raises:
        DataError: the folder's results are of another plan, the images cannot be loaded, or the disk refuses.
        CheckpointError: a checkpoint in the folder is damaged, or cannot be written.
        StoppedError: `stop` said so; the same call resumes.
    """
    data = checked_data(plan)
    results = begun(plan, out)
    waiting = False
    while left := pending(plan, seeds, results):
        if stop():
            raise StoppedError(f"stopped before {left[0].name}; run the same command to resume")
        if _make_next(left, plan, seeds, results, data, out, report, stop, say):
            waiting = False
        else:
            if not waiting:
                holders = {holder(task.files(plan, out).lock) for task in left if task.files(plan, out).lock.exists()}
                say(f"waiting for {names(left)}, held or kept up by process {', '.join(sorted(holders)) or 'unknown'}")
            waiting = True
            time.sleep(POLL_S)
        results = begun(plan, out)
    return results


def _make_next(
    left: list[Task],
    plan: Plan,
    seeds: int,
    results: Results,
    data: ImageSet,
    out: Path,
    report: Report,
    stop: Stop,
    say: Say,
) -> bool:
    """Make the first run that can be made and is not held; whether there was one."""
    for task in left:
        if not is_ready(task, plan, results):
            continue
        files = task.files(plan, out)
        with held(files.lock) as mine:
            if not mine:
                continue
            # Another process may have finished it since we looked.
            results = begun(plan, out)
            if is_done(task, results):
                return True
            lines = ProgressLines(task, plan, seeds, results, out, say)
            lines.begin()
            make = maker(task, plan, results, data, out)
            record = make(files, _both(lines, named(task.label, report)), stop)
            append(out / results_file(plan.name), record)
            files.discard()
        results.add(record)
        lines.end(results)
        return True
    return False


class ProgressLines:
    """Says how far a run is, and how long its plan will take; a `Report` of the run."""

    def __init__(self, task: Task, plan: Plan, seeds: int, results: Results, out: Path, say: Say) -> None:
        self.task, self.plan, self.seeds, self.results, self.out, self.say = task, plan, seeds, results, out, say
        self._last = time.monotonic()

    def begin(self) -> None:
        checkpoint = self.task.files(self.plan, self.out).checkpoint
        done = int(load_checkpoint(checkpoint)["step"]) if checkpoint.exists() else 0
        begins = f"resumes from step {done:,}" if done else "begins"
        self.say(f"{self.task.label} {begins} ({self.task.steps:,} steps); {self._left(self.results)}")

    def __call__(self, step: Step) -> None:
        if step.phase == "train" and time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            work = spent(self.task.files(self.plan, self.out).work)
            rate = f", {work.seconds / work.step:.2f} s a step" if work.step else ""
            loss = "" if step.loss is None else f", loss {step.loss:.2f}"
            left = self._left(self.results)
            self.say(f"{self.task.label}: step {step.done:,} of {self.task.steps:,}{rate}{loss}; {left}")

    def end(self, results: Results) -> None:
        taught = results.teacher if self.task.name == "teacher" else None
        accuracy = f", top-1 on val {100 * taught.val:.1f} %" if taught else ""
        self.say(f"{self.task.label} is finished{accuracy}; {self._left(results)}")

    def _left(self, results: Results) -> str:
        hours = hours_left(self.plan, self.seeds, results, self.out)
        return "hours left: not measured yet" if hours is None else f"{hours:.1f} hours of one process left"


def checked_data(plan: Plan) -> ImageSet:
    """The plan's images. Raises `DataError` where they are not there or do not fit the plan's space."""
    data = load_named(plan.data)
    if len(data.class_names) != plan.space.classes:
        raise DataError(f"{plan.data} has {len(data.class_names)} classes, the plan's space {plan.space.classes}")
    return data


def begun(plan: Plan, out: Path) -> Results:
    """The results that are there; a file of results is begun where there is none.

    Raises:
        DataError: they are of another plan, or the disk refuses.
    """
    path = out / results_file(plan.name)
    results = load(path)
    if results is None:
        append(path, conditions(plan))
        results = Results(conditions(plan))
    if Plan.from_json(results.conditions.plan) != plan:
        raise DataError(f"the results in {path} are of other settings; take another folder for these")
    return results


def conditions(plan: Plan) -> Conditions:
    """The conditions of results that begin now, here."""
    today = datetime.now(UTC).date().isoformat()
    return Conditions(plan.identity(), today, device_name(), torch.get_num_threads(), torch.__version__)


def named(label: str, report: Report) -> Report:
    """A report whose phases carry the name of a run."""
    return lambda step: report(Step(f"{label}: {step.phase}", step.done, step.total, step.loss))


def _both(first: Report, second: Report) -> Report:
    def report(step: Step) -> None:
        first(step)
        second(step)

    return report

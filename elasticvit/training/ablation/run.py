"""Runs what a plan still lacks, one result at a time; each is kept as soon as it is there."""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from elasticvit.data.image_set import ImageSet, load_named
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.device import best_device
from elasticvit.progress import Report, Step, Stop, never, silent
from elasticvit.training.ablation.floors import as_floors, find_floors
from elasticvit.training.ablation.plan import CONFIGS, LABELS, Plan
from elasticvit.training.ablation.records import Conditions, Record, Results, append, load
from elasticvit.training.ablation.scratch import train_scratch
from elasticvit.training.ablation.trial import run_trial

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Task:
    """A result that is to be made: what it is called, and how."""

    name: str
    make: Callable[[Path, Report], Record]


def run(plan: Plan, seeds: int, out: Path, *, report: Report = silent, stop: Stop = never) -> Results:
    """Make all results of seeds 0 to `seeds` - 1 that the folder `out` lacks.

    Raises:
        DataError: the folder's results are of another plan, the images cannot be had, or the disk refuses.
        StoppedError: `stop` said so; the same call goes on from there.
    """
    path = out / RESULTS
    data = load_named(plan.data)
    if len(data.class_names) != plan.space.classes:
        raise DataError(f"{plan.data} has {len(data.class_names)} classes, the plan's space {plan.space.classes}")
    results = load(path)
    if results is None:
        append(path, conditions(plan))
        results = Results(conditions(plan))
    if Plan.from_json(results.conditions.plan) != plan:
        raise DataError(f"the results in {path} are of other settings; take another folder for these")
    for task in missing(plan, seeds, results, data, stop):
        if stop():
            raise StoppedError(f"stopped before {task.name}; the same command goes on from there")
        checkpoint = out / f".{task.name.replace(' ', '-')}.checkpoint"
        record = task.make(checkpoint, _naming(task.name, report))
        append(path, record)
        results.add(record)
        checkpoint.unlink(missing_ok=True)
    return results


def missing(plan: Plan, seeds: int, results: Results, data: ImageSet, stop: Stop) -> Iterator[Task]:
    """What is not there yet, in the order in which it can be made: floors, all trials of a seed, then its networks from
    scratch, shorter runs first."""
    if results.floors is None:
        yield Task("floors", partial(find_floors, plan, data, stop=stop))
    assert results.floors is not None
    floors = as_floors(plan, results.floors)
    for seed in range(seeds):
        for config in CONFIGS:
            if results.trial(config, seed) is None:
                yield Task(f"{config} {seed}", partial(run_trial, plan, config, seed, floors, data, stop=stop))
    for steps in sorted(plan.steps * factor for factor in plan.scratch_factors):
        for seed in range(seeds):
            trial = results.trial("performance", seed)
            assert trial is not None
            for target in plan.scratch:
                if (seed, target, steps) not in {(s.seed, s.target, s.steps) for s in results.scratch}:
                    make = partial(train_scratch, plan, trial, target, steps, data, stop=stop)
                    yield Task(f"scratch {target:g} {steps} {seed}", make)


def conditions(plan: Plan) -> Conditions:
    """The conditions of results that begin now, here."""
    if best_device().type == "cuda":
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    today = datetime.now(UTC).date().isoformat()
    return Conditions(plan.identity(), today, device, torch.get_num_threads(), torch.__version__)


def label(name: str) -> str:
    """A task's name as people read it."""
    first, _, rest = name.partition(" ")
    return f"{LABELS[first]} {rest}" if first in LABELS else name


def _naming(name: str, report: Report) -> Report:
    return lambda step: report(Step(f"{label(name)}: {step.phase}", step.done, step.total, step.loss))

"""A supernet's sub-network trained on its own, from fresh weights (paper, Table 5)."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from elasticvit.data.image_set import ImageSet
from elasticvit.nn.net import Net
from elasticvit.progress import Report, Stop
from elasticvit.training.ablation.files import RunFiles
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.records import Scratch, SupernetRun
from elasticvit.training.ablation.supernet_run import Evaluator, decoded
from elasticvit.training.ablation.work import Work, spent
from elasticvit.training.loop import train_plain
from elasticvit.training.losses import Teacher


def train_scratch(
    plan: Plan,
    run: SupernetRun,
    target: float,
    steps: int,
    data: ImageSet,
    teachers: Sequence[Teacher],
    files: RunFiles,
    report: Report,
    stop: Stop,
) -> Scratch:
    """Train the supernet's best sub-network of a level for `steps` steps. Optimizer, schedule, images and
    losses (labels and the plan's teachers) are those of a sampled sub-network; so is the evaluation. Raises what
    `train_plain` does."""
    began = time.perf_counter()
    level = next(level for level in run.levels if level.target == target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        net = Net(decoded(plan.space, level.candidates[level.best]))
    # `train_plain` reads nothing of how sub-networks are chosen.
    recipe = plan.recipe("adjacent", (), run.seed, len(data.train))
    optim = replace(recipe.optim, warmup=max(1, steps // 10))
    recipe = replace(recipe, name="ablation-scratch", steps=steps, optim=optim)
    work = Work(files.work, lambda: 0) if plan.curve else None
    train_plain(net, recipe, data, checkpoint=files.checkpoint, report=report, stop=stop, logs=work, teachers=teachers)
    trained, began = (spent(files.work).seconds, time.perf_counter()) if plan.curve else (0.0, began)
    evaluator = Evaluator.of(data)
    val = evaluator.top1(evaluator.ready(net), data.val)
    return Scratch(run.seed, target, steps, val, level.val, trained + time.perf_counter() - began)

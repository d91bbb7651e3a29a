"""A supernet's sub-network trained on its own, from fresh weights (paper, Table 5)."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from elasticvit.data.image_set import ImageSet
from elasticvit.nn.net import Net
from elasticvit.progress import Report, Stop
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.records import Scratch, Trial
from elasticvit.training.ablation.trial import Evaluator, decoded
from elasticvit.training.loop import train_plain


def train_scratch(
    plan: Plan, trial: Trial, target: float, steps: int, data: ImageSet, checkpoint: Path, report: Report, stop: Stop
) -> Scratch:
    """Train the trial's best sub-network of a level for so many steps, with the supernet's optimizer, schedule and
    images, from labels alone; judged like the supernet's. Raises what `train_plain` does."""
    began = time.perf_counter()
    level = next(level for level in trial.levels if level.target == target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        net = Net(decoded(plan.space, level.candidates[level.best]))
    # `train_plain` reads nothing of how sub-networks are chosen.
    recipe = plan.recipe("adjacent", (), trial.seed, len(data.train))
    optim = replace(recipe.optim, warmup=max(1, steps // 10))
    recipe = replace(recipe, name="ablation-scratch", steps=steps, optim=optim)
    train_plain(net, recipe, data, checkpoint=checkpoint, report=report, stop=stop)
    evaluator = Evaluator.of(data)
    val = evaluator.top1(evaluator.ready(net), data.val)
    return Scratch(trial.seed, target, steps, val, level.val, time.perf_counter() - began)

"""The training loop: one supernet, several of its sub-networks a step.

    elasticvit train digits --out digits.safetensors

All randomness of a step comes from (seed, step), never from what ran before: an interrupted run goes on bit for bit
as if it had not been, on the same machine with the same number of threads.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import backward
from torch.nn.utils import clip_grad_norm_

from elasticvit.errors import DataError
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.checkpoints import State, StoppedError, load_checkpoint, save_checkpoint
from elasticvit.training.data import ImageSet
from elasticvit.training.losses import distillation_loss, label_loss, soft_target
from elasticvit.training.progress import Report, Step, silent
from elasticvit.training.recipes import Recipe
from elasticvit.training.samplers import AdjacentStep

Stop = Callable[[], bool]


def never() -> bool:
    """Do not stop."""
    return False


def train(
    recipe: Recipe,
    data: ImageSet,
    *,
    checkpoint: Path | None = None,
    report: Report = silent,
    stop: Stop = never,
) -> SuperNet:
    """Train a supernet, in eval mode when done. Where `checkpoint` is a file of the same recipe, go on from it.

    `report` is called after every step. When `stop` says so, the state is saved to `checkpoint` and the run ends.

    Raises:
        DataError: the data does not fit the recipe's space, or the loss is no longer a number.
        UnusableCheckpointError: the checkpoint is damaged or of another recipe.
        CheckpointError: it cannot be written.
        StoppedError: `stop` said so.
    """
    if len(data.class_names) != recipe.space.classes:
        raise DataError(f"{data.name} has {len(data.class_names)} classes, the space {recipe.space.classes}")
    sampler = AdjacentStep.over(recipe.space, recipe.levels, recipe.subnets)
    state = fresh_state(recipe)
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, recipe, state)
    supernet, optimizer = state.supernet.train(), state.optimizer

    with bit_exact():
        while state.step < recipe.steps:
            # Everything random about this step follows from its number.
            rng, noise = generators(recipe.seed, state.step)
            images, labels = batch(data, recipe, state.step, noise)
            state.level = sampler.walk(state.level, rng)
            *others, smallest = sampler.choose(state.level, rng)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * schedule(recipe, state.step)

            # Gradients of all sub-networks add up; one graph is alive at a time.
            answers = []
            for arch in others:
                logits = supernet(images, arch)
                loss = label_loss(logits, labels, recipe.smoothing)
                backward(loss)
                answers.append(logits.detach())

            # The smallest learns from what the others answered as well.
            logits = supernet(images, smallest)
            loss = (1 - recipe.distil) * label_loss(logits, labels, recipe.smoothing)
            loss = loss + recipe.distil * distillation_loss(logits, soft_target(answers))
            backward(loss)

            clip_grad_norm_(supernet.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1

            if not math.isfinite(loss.item()):
                raise DataError(f"the loss is {loss.item()} at step {state.step}; try a lower learning rate")
            report(Step("train", state.step, recipe.steps, loss.item()))
            stopping = stop()
            due = stopping or state.step % recipe.save_every == 0 or state.step == recipe.steps
            if checkpoint is not None and due:
                save_checkpoint(checkpoint, recipe, state)
            if stopping:
                raise StoppedError(f"stopped after step {state.step} of {recipe.steps}")
    return supernet.eval()


def fresh_state(recipe: Recipe) -> State:
    """Weights as the authors start them and an optimizer, both decided by the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        supernet = SuperNet(recipe.space)
    decayed = {name for name, p in supernet.named_parameters() if p.ndim > 1 and not name.endswith("position_bias")}
    groups = [
        {"params": [p for n, p in supernet.named_parameters() if n in decayed], "weight_decay": recipe.weight_decay},
        {"params": [p for n, p in supernet.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]
    return State(supernet, torch.optim.AdamW(groups, lr=recipe.lr, fused=True))


def schedule(recipe: Recipe, step: int) -> float:
    """Learning rate of a step (from 0) as a part of the peak: linear warm-up, then half a cosine."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    way = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup - 1)
    return recipe.lr_end + (1 - recipe.lr_end) * 0.5 * (1 + math.cos(math.pi * min(1.0, way)))


def generators(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The sources of randomness of one step."""
    rng = np.random.default_rng((seed, 1, step))
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


def batch(data: ImageSet, recipe: Recipe, step: int, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented images (B, 3, H, W) and labels (B,) of a step; every epoch is another order, a rest is left out."""
    per_epoch = max(1, len(data.train) // recipe.batch)
    epoch, at = divmod(step, per_epoch)
    order = np.random.default_rng((recipe.seed, 2, epoch)).permutation(len(data.train))
    rows = torch.from_numpy(order[at * recipe.batch : (at + 1) * recipe.batch])
    return recipe.augment(data.scaled(data.train.images[rows]), noise), data.train.labels[rows]


@contextmanager
def bit_exact() -> Iterator[None]:
    """Only kernels that give the same bits every time; fresh memory is not wiped, since nothing reads it."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]

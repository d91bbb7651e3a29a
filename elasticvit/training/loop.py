"""The training loop: one supernet, several of its sub-networks per step, in one process or many.

    elasticvit train digits --out digits.safetensors
    torchrun --nproc-per-node 2 -m elasticvit.training digits --out digits.safetensors

All randomness of a step comes from (seed, step), so an interrupted run continues bit for bit as without interruption,
on the same CPU with the same number of threads. With another number of processes it continues with the same images and
sub-networks. Accelerators sum in varying order, so their runs only start alike.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.device import best_device
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card
from elasticvit.progress import Report, Step, Stop, never, silent
from elasticvit.training.batches import batches, parts_of, steps_per_epoch
from elasticvit.training.checkpoints import State, read_checkpoint, restore, save_checkpoint
from elasticvit.training.distributed import World
from elasticvit.training.ema import Ema
from elasticvit.training.logs import Log, Record, Unlogged
from elasticvit.training.losses import Teacher
from elasticvit.training.optim import Summed, clip_gradients, learning_rate, make_optimizer
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Choice, Sampler
from elasticvit.training.single_net import Always, Draws, Single
from elasticvit.training.step import TrainingStep


def train(
    recipe: Recipe,
    data: ImageSet,
    *,
    checkpoint: Path | None = None,
    report: Report = silent,
    stop: Stop = never,
    logs: Log | None = None,
    start: SuperNet | None = None,
    card: Card | None = None,
    teachers: Sequence[Teacher] = (),
    tables: Path | None = None,
    world: World | None = None,
) -> SuperNet:
    """Train a supernet; it is returned on the CPU in eval mode. If `checkpoint` is a file of the same run, continue.

    Args:
        report, logs: called after every step, in the first process of several.
        stop: called after every step; if it returns True in any process, the state is saved and the run ends.
        start: a supernet of the recipe's space; a new run starts from a copy of its weights.
        card: of the supernet file; stored in the checkpoint, for files that are made from it before the run ends.
        teachers: external networks, scaled images to logits, on the run's device.
        tables: a folder of level tables, as `elasticvit.costs.level_tables.build_level_tables` writes it.
        world: the processes of the run; by default this one alone, on an accelerator if there is one.

    Raises:
        DataError: the data does not fit the recipe's space, or the loss is no longer a number.
        UnusableCheckpointError: the checkpoint is damaged or of another run.
        CheckpointError, LogError: a file cannot be written.
        DistributedError: another process ended.
        StoppedError: `stop` returned True.
    """
    if len(data.class_names) != recipe.space.classes:
        raise DataError(f"{data.name} has {len(data.class_names)} classes, the space {recipe.space.classes}")
    world = world or World(device=best_device())
    supernet = fresh_supernet(recipe)
    if start is not None:
        if start.space != recipe.space:
            raise DataError(f"the weights to start from are of space {start.space.name!r}, not of the recipe's")
        supernet.load_state_dict(start.state_dict())
    sampler = Sampler(recipe.space, recipe.sampling, tables)
    run(supernet, sampler, recipe, data, checkpoint, report, stop, logs or Unlogged(), teachers, world, card)
    return supernet


def train_plain(
    net: Net,
    recipe: Recipe,
    data: ImageSet,
    *,
    checkpoint: Path | None = None,
    report: Report = silent,
    stop: Stop = never,
    logs: Log | None = None,
    teachers: Sequence[Teacher] = (),
    world: World | None = None,
) -> Net:
    """Train one plain network from its weights, in place, with the recipe's optimizer, schedule, images and loss; its
    space and sampling are ignored. Otherwise like `train`."""
    if len(data.class_names) != net.arch.classes:
        raise DataError(f"{data.name} has {len(data.class_names)} classes, the network {net.arch.classes}")
    world = world or World(device=best_device())
    run(Single(net), Always(net.arch), recipe, data, checkpoint, report, stop, logs or Unlogged(), teachers, world)
    return net


def run(
    model: nn.Module,
    sampler: Draws,
    recipe: Recipe,
    data: ImageSet,
    checkpoint: Path | None,
    report: Report,
    stop: Stop,
    logs: Log,
    teachers: Sequence[Teacher],
    world: World,
    card: Card | None = None,
) -> None:
    """The training loop: train `model(images, arch)` in place, as `train` documents."""
    epoch, parts = steps_per_epoch(recipe, data), parts_of(recipe, world)
    state = begin(model, sampler, recipe, world)
    images = {} if checkpoint is None else data.fingerprint()
    if checkpoint is not None and (
        content := world.share(lambda: read_checkpoint(checkpoint, recipe, len(teachers), images))
    ):
        restore(state, content)
    if world.first:
        logs.begin(state.step)
    training_step = TrainingStep(model, recipe, teachers, torch.compile(model) if recipe.compile else model)
    now = time.perf_counter()

    with bit_exact(world.device):
        for batch in batches(recipe, data, world, state.step):
            # The randomness of a step depends on its number only; all processes draw the same sub-networks.
            rng = np.random.default_rng((recipe.seed, 1, state.step))
            for level, archs in sampler.refresh_due(state.sampler, state.step % epoch, epoch):
                scores = world.total([training_step.scores(arch, batch) for arch in archs])
                sampler.rescore(state.sampler, level, [score / parts for score in scores])
            choice = sampler.step(state.sampler, rng, state.step // epoch)

            # Gradients are summed over sub-networks, parts of the batch and processes.
            marks, summed = torch.zeros(2, len(choice.archs), dtype=torch.float64, device=world.device), Summed()
            for part in batch:
                marks += training_step.learn(choice, part, lambda loss: state.scaler.scale(loss / parts))
                summed.take(model)
            summed.give(model)
            world.add(p.grad for p in model.parameters() if p.grad is not None)

            # Any process may receive a signal to stop; all of them stop after the same step.
            *sums, stopping = world.total([*marks.flatten().tolist(), float(stop())])
            losses, scores = (np.reshape(sums, (2, -1)) / parts).tolist()
            if not np.isfinite(losses).all():
                raise DataError(f"the loss at step {state.step + 1} is no number: {losses}; try a lower learning rate")
            rate = learning_rate(recipe.optim, state.step, recipe.steps)
            norm = update(state, recipe, rate)
            sampler.observe(state.sampler, choice, scores)
            state.step += 1

            if world.first:
                report(Step("train", state.step, recipe.steps, losses[-1]))
                before, now = now, time.perf_counter()
                speed = recipe.batch / (now - before)
                logs(Record(state.step, choice.level, by_role(choice, losses), rate, speed, norm))
                due = stopping or state.step % recipe.save_every == 0 or state.step == recipe.steps
                if checkpoint is not None and due:
                    save_checkpoint(checkpoint, recipe, len(teachers), state, card, images)
            if stopping:
                raise StoppedError(f"stopped after step {state.step} of {recipe.steps}")
    if state.ema is not None:
        model.load_state_dict(state.ema.state_dict())
    model.cpu().eval()


def begin(model: nn.Module, sampler: Draws, recipe: Recipe, world: World) -> State:
    """The state before the first step, on the run's device. Raises `DataError` for what cannot be trained."""
    model.to(world.device).train()
    if recipe.precision == "float16" and world.device.type == "cpu":
        raise DataError("precision float16 needs an accelerator; on a CPU take bfloat16 or float32")
    optimizer, decay = make_optimizer(model, recipe.optim), recipe.optim.ema
    scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "float16")
    return State(model, optimizer, None if decay is None else Ema(model, decay), scaler, sampler.start())


def update(state: State, recipe: Recipe, rate: float) -> float:
    """One step of the optimizer with the summed gradients; returns their norm before clipping.

    Raises:
        DataError: the norm is not finite; weights and optimizer are unchanged.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.scaler.unscale_(state.optimizer)
    norm = clip_gradients(state.model, recipe.optim)
    # A scaler skips such a step by itself and lowers its scale.
    if not state.scaler.is_enabled() and not torch.isfinite(norm):
        raise DataError(f"the gradients at step {state.step + 1} are no numbers; try a lower learning rate")
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(state.model)
    return float(norm)


def fresh_supernet(recipe: Recipe) -> SuperNet:
    """A supernet with the authors' initialisation, from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return SuperNet(recipe.space)


def by_role(choice: Choice, losses: Sequence[float]) -> dict[str, float]:
    """The mean loss of a step's sub-networks of each role."""
    return {
        role: float(np.mean([loss for other, loss in zip(choice.roles, losses, strict=True) if other == role]))
        for role in dict.fromkeys(choice.roles)
    }


@contextmanager
def bit_exact(device: torch.device) -> Iterator[None]:
    """On a CPU, use deterministic kernels only; without filling uninitialised memory, which nothing reads."""
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        memory.fill_uninitialized_memory = before[1]

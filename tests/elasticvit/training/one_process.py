"""One process of a run of several, started by tests: `python -m tests.elasticvit.training.one_process MODE FOLDER`."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from elasticvit.data.image_set import ImageSet, Split, digits
from elasticvit.errors import ElasticVitError, StoppedError
from elasticvit.training.distributed import DistributedError, World, joined, leave
from elasticvit.training.loop import train
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Bank, Preference, Sampling
from tests.elasticvit.training.tiny_training import tiny_recipe

LOST, TIMEOUT_S = 7, 4.0
STOP_AFTER = 5


def whole_recipe(**changes: object) -> Recipe:
    """Everything that a checkpoint has to hold: bank, preference and averaged weights; in two parts per step."""
    sampling = Sampling(
        subnets=2, levels=2, bank=Bank(capacity=4, q=0.5, q_every=1), preference=Preference(candidates=2)
    )
    return tiny_recipe(**{"accumulate": 2, "ema": 0.9, "sampling": sampling, "steps": 8, "batch": 16} | changes)


def few_digits() -> ImageSet:
    """64 images, so that a run of 8 steps of 16 has two epochs, with all their refreshing of banks."""
    data = digits()
    return replace(data, train=Split(data.train.images[:64], data.train.labels[:64]))


def trained(world: World, folder: Path) -> None:
    """A whole run, whose result each process keeps; then one that the second process stops."""
    supernet = train(whole_recipe(ema=None), digits(), world=world, checkpoint=folder / "whole.checkpoint")
    torch.save(supernet.state_dict(), folder / f"{world.rank}.pt")
    train(whole_recipe(ema=None), few_digits(), world=world, checkpoint=folder / "epochs.checkpoint")
    calls = iter(range(1, 100))
    try:
        train(
            whole_recipe(),
            digits(),
            world=world,
            checkpoint=folder / "stopped.checkpoint",
            stop=lambda: next(calls) == STOP_AFTER and world.rank == 1,
        )
    except StoppedError as error:
        (folder / f"{world.rank}.stopped").write_text(str(error))


def interrupted(world: World, action: str) -> None:
    """A run whose second process ends, or falls silent, after a step."""

    def disturb() -> bool:
        if world.rank == 1:
            if action == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return False

    train(whole_recipe(), digits(), world=world, stop=disturb)


def main(mode: str, folder: Path) -> int:
    try:
        with joined(TIMEOUT_S if mode == "silent" else 120) as world:
            if mode == "trained":
                trained(world, folder)
            else:
                interrupted(world, mode)
    except ElasticVitError as error:
        sys.stderr.write(f"{error}\n")
        return LOST if isinstance(error, DistributedError) else 1
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1], Path(sys.argv[2])))

"""The images of each step: which ones, changed how, in what parts.

Everything follows from the recipe, the step and the part, never from what ran before or how many processes run.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import lcm

import numpy as np
import torch
from torch import Tensor

from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError
from elasticvit.training.distributed import World
from elasticvit.training.recipes import Recipe

READERS, AHEAD = 8, 16
"""Threads that prepare the batches of an accelerator, and how many parts they are ahead of it."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images that go through a network together: (B, 3, H, W) as augmented, with labels (B,), and the same mixed with
    each other, with targets (B, classes). Where nothing is mixed both are one tensor."""

    images: Tensor
    labels: Tensor
    mixed: Tensor
    targets: Tensor

    @property
    def is_mixed(self) -> bool:
        return self.mixed is not self.images

    def to(self, device: torch.device) -> "Part":
        if device.type == "cpu":
            return self
        images = self.images.to(device, non_blocking=True)
        mixed = self.mixed.to(device, non_blocking=True) if self.is_mixed else images
        labels, targets = (each.to(device, non_blocking=True) for each in (self.labels, self.targets))
        return Part(images, labels, mixed, targets)


def parts_of(recipe: Recipe, world: World) -> int:
    """How many parts a step's batch is cut into: the recipe's number, or more where processes would have none.

    Raises:
        DataError: the batch cannot be cut evenly.
    """
    parts = lcm(recipe.accumulate, world.size)
    if recipe.batch % parts:
        raise DataError(
            f"a batch of {recipe.batch} images cannot be cut into {parts} equal parts ({recipe.accumulate} by the"
            f" recipe, {world.size} processes); take another number of processes"
        )
    return parts


def steps_per_epoch(recipe: Recipe, data: ImageSet) -> int:
    """Whole batches in the training images; a rest is left out. Raises `DataError` where there is none."""
    if len(data.train) < recipe.batch:
        raise DataError(f"{data.name} has {len(data.train)} training images, a step takes {recipe.batch}")
    return len(data.train) // recipe.batch


def rows_of(recipe: Recipe, data: ImageSet, step: int) -> Tensor:
    """Which training images a step sees, (batch,); every epoch is another order."""
    epoch, at = divmod(step, steps_per_epoch(recipe, data))
    return order_of(recipe.seed, epoch, len(data.train))[at * recipe.batch : (at + 1) * recipe.batch]


@lru_cache(maxsize=2)
def order_of(seed: int, epoch: int, images: int) -> Tensor:
    """The order of all images in an epoch, (images,)."""
    return torch.from_numpy(np.random.default_rng((seed, 2, epoch)).permutation(images))


def make_part(recipe: Recipe, data: ImageSet, step: int, part: int, parts: int) -> Part:
    """One part of a step's images."""
    rows = rows_of(recipe, data, step).chunk(parts)[part]
    noise = torch.Generator().manual_seed(int(np.random.default_rng((recipe.seed, 3, step, part)).integers(2**62)))
    labels = data.train.labels[rows]
    images = recipe.augment(data.scaled(data.train.images[rows]), noise)
    mixed, targets = recipe.mix(images, labels, len(data.class_names), recipe.loss.smoothing, noise)
    return Part(images, labels, mixed, targets)


def batches(recipe: Recipe, data: ImageSet, world: World, start: int) -> Iterator[list[Part]]:
    """This process's parts of every step from `start` to the recipe's last.

    With an accelerator threads prepare them ahead of it; a CPU has nobody to keep waiting.
    """
    parts = parts_of(recipe, world)
    mine = range(world.rank, parts, world.size)
    wanted = [(step, part) for step in range(start, recipe.steps) for part in mine]
    if world.device.type == "cpu":
        made: Iterator[Part] = (make_part(recipe, data, step, part, parts) for step, part in wanted)
    else:
        made = _ahead(recipe, data, wanted, parts)
    for _ in range(start, recipe.steps):
        yield [next(made).to(world.device) for _ in mine]


def _ahead(recipe: Recipe, data: ImageSet, wanted: list[tuple[int, int]], parts: int) -> Iterator[Part]:
    def pinned(step: int, part: int) -> Part:
        made = make_part(recipe, data, step, part, parts)
        images = made.images.pin_memory()
        return Part(images, made.labels, made.mixed.pin_memory() if made.is_mixed else images, made.targets)

    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[Part]] = deque()
        try:
            for step, part in wanted:
                waiting.append(pool.submit(pinned, step, part))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

"""The images of each step: their selection, augmentation and division into parts.

They depend on the training recipe, the step and the part only, not on earlier steps or the number of processes.
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
"""Threads that prepare batches for an accelerator, and the number of parts they prepare in advance."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images of one forward pass: augmented images (B, 3, H, W) with labels (B,), and mixed images with targets
    (B, classes). If nothing is mixed, `images` and `mixed` are one tensor."""

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
        labels, targets = (tensor.to(device, non_blocking=True) for tensor in (self.labels, self.targets))
        return Part(images, labels, mixed, targets)


def parts_of(recipe: Recipe, world: World) -> int:
    """The number of parts of a step's batch: the recipe's number, or more if there are more processes.

    Raises:
        DataError: the batch cannot be divided evenly.
    """
    parts = lcm(recipe.accumulate, world.size)
    if recipe.batch % parts:
        raise DataError(
            f"a batch of {recipe.batch} images cannot be cut into {parts} equal parts ({recipe.accumulate} by the"
            f" recipe, {world.size} processes); use another number of processes"
        )
    return parts


def steps_per_epoch(recipe: Recipe, data: ImageSet) -> int:
    """The number of full batches in the training images. Raises `DataError` if there is none."""
    if len(data.train) < recipe.batch:
        raise DataError(f"{data.name} has {len(data.train)} training images, a step takes {recipe.batch}")
    return len(data.train) // recipe.batch


def rows_of(recipe: Recipe, data: ImageSet, step: int) -> Tensor:
    """Indices of the training images of a step, (batch,), from the permutation of its epoch."""
    epoch, at = divmod(step, steps_per_epoch(recipe, data))
    return epoch_permutation(recipe.seed, epoch, len(data.train))[at * recipe.batch : (at + 1) * recipe.batch]


@lru_cache(maxsize=2)
def epoch_permutation(seed: int, epoch: int, images: int) -> Tensor:
    """The permutation of all training images in an epoch, (images,)."""
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
    """The parts of this process in every step from `start` to the recipe's last.

    For an accelerator, threads prepare them in advance.
    """
    parts = parts_of(recipe, world)
    own_parts = range(world.rank, parts, world.size)
    wanted = [(step, part) for step in range(start, recipe.steps) for part in own_parts]
    if world.device.type == "cpu":
        made: Iterator[Part] = (make_part(recipe, data, step, part, parts) for step, part in wanted)
    else:
        made = _ahead(recipe, data, wanted, parts)
    for _ in range(start, recipe.steps):
        yield [next(made).to(world.device) for _ in own_parts]


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

"""Recipes: a training run is a function that returns a whole, typed configuration; a variant changes a line of one."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from elasticvit.errors import DataError
from elasticvit.space import Space, small
from elasticvit.training.augment import Augment


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training run."""

    name: str
    """Also the name of the supernet."""
    data: str
    """A name that `load_named` knows."""
    space: Space
    steps: int
    batch: int
    """Images a step; every sub-network of a step sees the same."""
    subnets: int = 3
    """Random sub-networks a step, besides the smallest."""
    levels: int = 6
    """Levels of MACs that the adjacent-step walk visits."""
    lr: float
    """Peak learning rate, after the warm-up."""
    lr_end: float = 0.01
    """Last learning rate as a part of the peak, reached by half a cosine."""
    warmup: int
    """Steps of linear warm-up from zero."""
    weight_decay: float = 0.05
    """Of matrices and kernels; not of norms, biases and position biases."""
    clip: float = 1.0
    """Largest norm of a step's gradient, over all parameters."""
    smoothing: float = 0.1
    distil: float = 0.5
    """Part of the smallest network's loss that comes from the other sub-networks' answers; the rest is labels."""
    augment: Augment = field(default_factory=Augment)
    seed: int = 0
    save_every: int = 50
    """Steps between checkpoints, where a checkpoint file is given."""

    def to_json(self) -> str:
        """Canonical JSON; a checkpoint is only continued by the recipe that began it."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def digits_minutes() -> Recipe:
    """The default supernet: handwritten digits, within two minutes on two cores."""
    return Recipe(
        name="digits",
        data="digits",
        space=small(10),
        steps=180,
        batch=48,
        subnets=2,
        lr=4e-3,
        warmup=20,
        augment=Augment(rotate=10, shift=0.06, scale=0.1),
    )


def cifar10_cpu() -> Recipe:
    """CIFAR-10 on one core in two hours: what a machine without an accelerator can do."""
    return Recipe(
        name="cifar10",
        data="cifar10",
        space=small(10),
        steps=12_000,
        batch=64,
        subnets=2,
        lr=2e-3,
        warmup=400,
        augment=Augment(crop=4, flip=True),
        save_every=200,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"digits": digits_minutes, "cifar10_cpu": cifar10_cpu}


def named_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `DataError` listing the known names."""
    if name not in RECIPES:
        raise DataError(f"no recipe named {name!r}; known: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()

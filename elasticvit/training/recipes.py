"""Training recipes: functions that return the complete, typed configuration of a training run."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Literal

import torch

from elasticvit.archs.space import Space, paper, small
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError
from elasticvit.nn.supernet_file import Card
from elasticvit.training.augment.augment import Augment
from elasticvit.training.augment.mixup import Mix
from elasticvit.training.losses import Loss
from elasticvit.training.optim import Optim
from elasticvit.training.sampling import Bank, Preference, Sampling, paper_sampling


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that determine the result of a training run."""

    name: str
    """The name of the training recipe and of its supernet."""
    data: str
    """A name that `load_named` knows, or a folder of images."""
    space: Space
    steps: int
    batch: int
    """Images per step, over all processes; all sub-networks of a step see the same images."""
    accumulate: int = 1
    """Number of parts of a step's batch, each with its own forward passes, batch-norm statistics and augmentation. One
    process runs them one after the other, several divide them: the result is the same."""
    sampling: Sampling = field(default_factory=Sampling)
    optim: Optim
    loss: Loss = field(default_factory=Loss)
    augment: Augment = field(default_factory=Augment)
    mix: Mix = field(default_factory=Mix)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of matrix products and convolutions (torch.autocast); weights are kept in float32. float16 needs an
    accelerator."""
    compile: bool = False
    """Compile the network. It helps one plain network on an accelerator; a supernet is compiled again for every
    architecture, and on a CPU the first call took 173 s for 11 % more images per second."""
    seed: int = 0
    save_every: int = 50
    """Steps between checkpoints, if there is a checkpoint file."""

    def to_json(self) -> str:
        """Canonical JSON; a checkpoint is only continued by the same recipe."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def continues(self, text: str) -> bool:
        """Whether `to_json`, of this or an earlier version, wrote this recipe: settings that are missing there must
        have their defaults, all other settings must be equal."""
        try:
            return _agrees(json.loads(text), self)
        except ValueError:
            return False


def _agrees(stored: object, value: object) -> bool:
    """Whether a value from JSON equals this one, where missing fields count as their defaults."""
    if not is_dataclass(value) or isinstance(value, type):
        return bool(stored == json.loads(json.dumps(value, default=asdict)))
    if not isinstance(stored, dict) or stored.keys() - {item.name for item in fields(value)}:
        return False
    return all(
        _agrees(stored[item.name], getattr(value, item.name))
        if item.name in stored
        else getattr(value, item.name) == (item.default_factory() if callable(item.default_factory) else item.default)
        for item in fields(value)
    )


def digits_minutes() -> Recipe:
    """The test supernet: handwritten digits, within two minutes on two cores."""
    return Recipe(
        name="digits",
        data="digits",
        space=small(10),
        steps=180,
        batch=48,
        sampling=Sampling(subnets=2),
        optim=Optim(lr=4e-3, warmup=20),
        augment=Augment(rotate=10, shift=0.06, scale=0.1),
    )


def cpu_minutes() -> Recipe:
    """The paper's method on handwritten digits, in minutes on a CPU: adjacent levels, memory bank, preference,
    alpha-divergence, adaptive clipping, averaged weights; sizes and rates cut to 180 steps. Without floors, which a
    space this small does not need."""
    return Recipe(
        name="cpu_minutes",
        data="digits",
        space=small(10),
        steps=180,
        batch=48,
        sampling=Sampling(subnets=2, bank=Bank(capacity=8, q_every=2), preference=Preference(candidates=5)),
        optim=Optim(lr=4e-3, warmup=20, decay="authors", clip=None, agc=0.1, ema=0.95),
        loss=Loss(inplace="alpha"),
        augment=Augment(rotate=10, shift=0.06, scale=0.1),
    )


def cifar10_cpu() -> Recipe:
    """The default supernet: CIFAR-10 on two cores in some two hours, by `torchrun --nproc-per-node 2`.

    The sandwich, against the paper's advice: with a few dozen epochs on small images the largest network learns
    fastest, and teaches the others (docs/ablation.md finds the same in miniature). One random network a step, so that
    half of the time goes to the largest.
    """
    return Recipe(
        name="cifar10",
        data="cifar10",
        space=small(10),
        steps=8_000,
        batch=128,
        accumulate=2,
        sampling=Sampling(strategy="sandwich", subnets=1),
        optim=Optim(lr=2.5e-3, warmup=400),
        augment=Augment(crop=4, flip=True),
        save_every=100,
    )


def cifar10_1gpu() -> Recipe:
    """CIFAR-10 on one accelerator, 200 epochs; chosen by rules of thumb, not yet run."""
    return Recipe(
        name="cifar10",
        data="cifar10",
        space=small(10),
        steps=200 * 87,
        batch=512,
        sampling=Sampling(subnets=3),
        optim=Optim(lr=3e-3, warmup=5 * 87, ema=0.999),
        augment=Augment(crop=4, flip=True),
        mix=Mix(mixup=0.2, cutmix=0.5),
        precision="bfloat16",
        save_every=500,
    )


def tiny_imagenet_cpu() -> Recipe:
    """Tiny-ImageNet (64 pixels, 200 classes) on two cores like `cifar10_cpu`: 28 epochs in some six hours.

    For those who have no accelerator; `elasticvit snapshot` makes a supernet of it before it has ended.
    """
    return replace(
        cifar10_cpu(),
        name="tiny-imagenet",
        data="tiny-imagenet",
        space=small(200),
        steps=20_000,
        optim=Optim(lr=2.5e-3, warmup=500),
        augment=Augment(crop=8, flip=True),
    )


def tiny_imagenet_1gpu() -> Recipe:
    """Tiny-ImageNet (64 pixels, 200 classes) on one accelerator, 150 epochs; chosen by rules of thumb, not yet run."""
    return Recipe(
        name="tiny-imagenet",
        data="tiny-imagenet",
        space=small(200),
        steps=150 * 175,
        batch=512,
        sampling=Sampling(subnets=3),
        optim=Optim(lr=2e-3, warmup=5 * 175, ema=0.9995),
        augment=Augment(flip=True, resized_crop=(0.35, 1.0)),
        mix=Mix(mixup=0.2, cutmix=0.5),
        precision="bfloat16",
        save_every=500,
    )


def paper_16gpu() -> Recipe:
    """ElasticViT as the authors trained it: 16 processes, 96 images each, 610 epochs of 834 steps.

    Where paper and code differ this follows the code. Code: learning rate 5e-4 × 1536 / 512 = 1.5e-3 (paper: 5e-4);
    warm-up from 1e-6 × 3 (paper: 5e-6); 600 epochs and 10 more at the last rate (paper: 600); RandAugment of one weak
    operation (paper: none); banks of 50 from 500 MFLOPs on, drawn by softmax (paper: 150, alike); floors by the lower
    key (paper: the closest); levels without 50 MFLOPs; networks of up to 20 MFLOPs above their level (paper: of equal
    cost); the most preferred of five, compared with the best of the first level's bank (paper: one is taken or left,
    compared with its own level's); two external teachers at temperature 0.2 that the paper does not mention: give them
    to `train(teachers=...)`, without them labels take their place.

    Other than the code: the rate falls every step, not every epoch, and its cosine begins after the warm-up; the level
    keeps still between epochs; the bank's scores leave running statistics alone; a tenth of the images is held out for
    search, so that 834 steps, an epoch of the authors, are 1.1 here; adaptive clipping takes a head of a position
    bias for a unit, not an offset; images are cut to 224 pixels once, before they are cropped at random, and for
    evaluation there is no margin (theirs: 256, then the centre); pixels are scaled by 0.5 and 0.5 (theirs: mean and
    deviation of ImageNet); random crops are resized bilinearly (theirs: bicubic); RandAugment has our set of operations
    (`randaugment.py`); recalibration sees 512 images as they are (theirs: some 12,000, augmented and mixed).
    """
    epoch = 1_281_167 // 1536
    return Recipe(
        name="elasticvit",
        data="imagenet@224",
        space=paper(1000),
        steps=610 * epoch,
        batch=1536,
        accumulate=16,
        sampling=paper_sampling(),
        optim=Optim(
            lr=1.5e-3,
            lr_start=0.002,
            lr_end=0.01,
            warmup=5 * epoch,
            cooldown=10 * epoch,
            decay="authors",
            clip=None,
            agc=0.1,
            ema=0.99985,
        ),
        loss=Loss(distil=1.0, inplace="alpha"),
        augment=Augment(
            flip=True,
            resized_crop=(0.08, 1.0),
            randaugment=(1, 1.0),
            randaugment_spread=0.5,
            randaugment_chance=0.5,
            erasing=0.01,
        ),
        mix=Mix(mixup=0.01, cutmix=0.01),
        save_every=epoch,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits_minutes,
    "cpu_minutes": cpu_minutes,
    "cifar10_cpu": cifar10_cpu,
    "cifar10_1gpu": cifar10_1gpu,
    "tiny_imagenet_cpu": tiny_imagenet_cpu,
    "tiny_imagenet_1gpu": tiny_imagenet_1gpu,
    "paper_16gpu": paper_16gpu,
}


def named_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `DataError`, which lists the known names."""
    if name not in RECIPES:
        raise DataError(f"no training recipe named {name!r}; known: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()


def card(recipe: Recipe, data: ImageSet) -> Card:
    """The card of a supernet of this training recipe, which is in its provenance."""
    images = {"images": len(data.train), "splits": data.splits()}
    provenance = {"recipe": asdict(recipe), **images, "torch": torch.__version__}
    return Card(recipe.name, data.class_names, data.name, data.mean, data.std, data.terms, provenance)

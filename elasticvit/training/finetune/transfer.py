"""From a trained supernet to other classes: the weights to copy, the training recipe, the card and the terms of use.

The paper (section 5.3) fine-tunes single networks, with the settings of GPipe. Here a whole supernet is adapted in the
same way, so that it can be searched for every device and budget; or one network alone.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace

import torch
from torch import Tensor

from elasticvit.accuracy.intervals import wilson
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError
from elasticvit.nn.net import Net
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card
from elasticvit.training.augment.augment import Augment
from elasticvit.training.optim import Optim
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Sampling

CLASSIFIER = "head.classify."
MIN_PER_CLASS = 2
FEW_HELD = 100
EPOCHS, MIN_STEPS, MAX_STEPS = 30, 300, 6000
BATCH, BATCH_OF_FEW, FEW = 64, 32, 2000
"""Images per step: `BATCH_OF_FEW` for data sets of fewer than `FEW` images."""
LR = 1e-3


def with_classes(net: Net, classes: int) -> Net:
    """The same network for other classes: all weights copied but the last layer's, which are zero.

    With zeros, gradients of the first steps change the last layer only, and at the start all classes are equally
    likely.
    """
    with torch.device("meta"):
        fresh = Net(replace(net.arch, classes=classes))
    required = fresh.state_dict()
    kept = {name: t.detach().clone() for name, t in net.state_dict().items() if not name.startswith(CLASSIFIER)}
    zeros = {name: torch.zeros(t.shape) for name, t in required.items() if name.startswith(CLASSIFIER)}
    fresh.load_state_dict(kept | zeros, assign=True)
    return fresh.train(net.training)


def fresh_net(arch: Arch, seed: int) -> Net:
    """A network with random weights, initialised as by the authors from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(arch)


def supernet_with_classes(supernet: SuperNet, classes: int) -> SuperNet:
    """A supernet of the same space for other classes, with weights like `with_classes`."""
    with torch.device("meta"):
        fresh = SuperNet(replace(supernet.space, classes=classes))
    fresh.net = with_classes(supernet.net, classes)
    return fresh.train(supernet.training)


def check_images(data: ImageSet) -> None:
    """Raises `DataError` for images on which no classifier can be trained or evaluated."""
    if len(data.class_names) < 2:
        raise DataError(
            f"{data.name} has {len(data.class_names)} class; a classifier needs two or more: a folder for each class"
        )
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names)).tolist()
    few = [name for name, count in zip(data.class_names, counts, strict=True) if count < MIN_PER_CLASS]
    if few:
        raise DataError(
            f"{data.name} has fewer than {MIN_PER_CLASS} training images of {listed(few)}; add some or remove it"
        )
    if not len(data.search):
        raise DataError(
            f"{data.name} is too small: a tenth of every class is held out to measure accuracy, which is less than one"
            " image; give 10 or more images of every class"
        )
    if all_alike(data.train.images):
        raise DataError(
            f"all {len(data.train)} training images of {data.name} look the same; no network can separate their classes"
        )


def all_alike(images: Tensor) -> bool:
    """Whether images (N, 3, H, W) are equal byte by byte; stops at the first that differs."""
    return all(torch.equal(image, images[0]) for image in images)


def few_held(data: ImageSet) -> Iterator[str]:
    """Warnings, a sentence each, if networks are compared or reported on fewer than `FEW_HELD` images."""
    if (n := len(data.search)) < FEW_HELD:
        yield f"networks are compared on {n} held-out images only; each is worth {1 / n:.1%}"
    if (n := len(data.val)) < FEW_HELD:
        lower, upper = wilson(0.5, n)
        yield (
            f"accuracies are reported from {n} images only: 95 % intervals are up to {50 * (upper - lower):.0f} points "
            "to either side; a folder val with more images makes them narrower"
        )


def listed(names: list[str], max_shown: int = 5) -> str:
    """The first names, and the number of the remaining ones."""
    shown = ", ".join(map(repr, names[:max_shown]))
    return shown if len(names) <= max_shown else f"{shown} and {len(names) - max_shown} more"


def transfer_recipe(
    name: str,
    space: Space,
    data: ImageSet,
    *,
    steps: int | None = None,
    lr: float = LR,
    seed: int = 0,
    flip: bool = True,
) -> Recipe:
    """The recipe for fine-tuning on these images, by their number.

    About 30 epochs, with adjacent-step sampling; the learning rate is half of that for training from scratch.
    Augmentation: shifts by an eighth of the side, and mirroring unless `flip` is off (for text, signs, digits).
    """
    images = len(data.train)
    batch = min(images, BATCH if images >= FEW else BATCH_OF_FEW)
    steps = steps or min(MAX_STEPS, max(MIN_STEPS, EPOCHS * images // batch))
    return Recipe(
        name=name,
        data=data.name,
        space=space,
        steps=steps,
        batch=batch,
        sampling=Sampling(subnets=2),
        optim=Optim(lr=lr, warmup=min(100, steps // 10)),
        augment=Augment(crop=data.train.images.shape[-1] // 8, flip=flip),
        seed=seed,
        save_every=max(1, min(200, steps // 10)),
    )


def transfer_card(name: str, base: Card, base_sha256: str, recipe: Recipe, data: ImageSet) -> Card:
    """The card of a fine-tuned supernet: its classes and data, the scaling of the base, and the base's provenance."""
    origin = {"name": base.name, "sha256": base_sha256, "data": base.data, "provenance": dict(base.provenance)}
    images = {"images": len(data.train), "splits": data.splits()}
    provenance = {"recipe": asdict(recipe), **images, "torch": torch.__version__, "base": origin}
    terms = combined_terms(base, data)
    return Card(name, data.class_names, data.name, base.mean, base.std, terms=terms, provenance=provenance)


def combined_terms(base: Card, data: ImageSet) -> str | None:
    """The terms of use of the base and of the images it was adapted to; both hold. None if neither has any."""
    if not base.terms or not data.terms or data.terms in base.terms:
        return base.terms or data.terms
    return f"Adapted from {base.name}: {base.terms} Adapted to {data.name}: {data.terms}"

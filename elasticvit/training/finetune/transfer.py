"""From a trained supernet to other classes: what is kept, what is new, what it is trained by, and whose terms hold.

The paper (section 5.3) fine-tunes single networks, with the settings of GPipe. Here a whole supernet is adapted in the
same way, so that it can be searched for every device and budget; or one network alone.
"""

from dataclasses import asdict, replace

import torch
from torch import Tensor

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
FEWEST_A_CLASS = 2
FEW_HELD = 100
EPOCHS, FEWEST_STEPS, MOST_STEPS = 30, 300, 6000
BATCH, BATCH_OF_FEW, FEW = 64, 32, 2000
"""Images a step, and the same where there are fewer than `FEW`."""
LR = 1e-3


def with_classes(net: Net, classes: int) -> Net:
    """The same network for other classes: all weights copied but the last layer's, which are zero.

    From zeros the first steps teach the last layer alone and leave the body be, and every run begins alike: all
    classes are equally likely.
    """
    with torch.device("meta"):
        fresh = Net(replace(net.arch, classes=classes))
    due = fresh.state_dict()
    kept = {name: t.detach().clone() for name, t in net.state_dict().items() if not name.startswith(CLASSIFIER)}
    zeros = {name: torch.zeros(t.shape) for name, t in due.items() if name.startswith(CLASSIFIER)}
    fresh.load_state_dict(kept | zeros, assign=True)
    return fresh.train(net.training)


def fresh_net(arch: Arch, seed: int) -> Net:
    """A network with weights as the authors start them, decided by the seed."""
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
    """Raises `DataError` for images from which no classifier can be learnt or measured."""
    if len(data.class_names) < 2:
        raise DataError(
            f"{data.name} has {len(data.class_names)} class; a classifier needs two or more: a folder for each class"
        )
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names)).tolist()
    few = [name for name, count in zip(data.class_names, counts, strict=True) if count < FEWEST_A_CLASS]
    if few:
        raise DataError(
            f"{data.name} has fewer than {FEWEST_A_CLASS} training images of {listed(few)}; add some or remove it"
        )
    if not len(data.search):
        raise DataError(
            f"{data.name} is too small: a tenth of every class is held out to measure accuracy, which is no image at"
            " all; give 10 or more images of every class"
        )
    if all_alike(data.train.images):
        raise DataError(
            f"all {len(data.train)} training images of {data.name} look the same; nothing tells their classes apart"
        )


def all_alike(images: Tensor) -> bool:
    """Whether images (N, 3, H, W) are equal byte by byte; stops at the first that differs."""
    return all(torch.equal(image, images[0]) for image in images)


def few_held(data: ImageSet) -> str | None:
    """A sentence where accuracy is measured on so few images that a single one of them counts."""
    if len(data.search) >= FEW_HELD:
        return None
    return f"accuracy is measured on {len(data.search)} held-out images only; each is worth {1 / len(data.search):.1%}"


def listed(names: list[str], most: int = 5) -> str:
    """A few names and how many more there are."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


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
    """The recipe for adapting to these images, by how many there are.

    About thirty looks at every image, by adjacent-step sampling; the learning rate is half of what training from
    scratch takes. Shifts by an eighth of the side, and mirror images unless `flip` is off (for texts, signs, digits).
    """
    images = len(data.train)
    batch = min(images, BATCH if images >= FEW else BATCH_OF_FEW)
    steps = steps or min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * images // batch))
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
    """The card of what was adapted: its own classes and data, scaled as the base's, and what it is from."""
    origin = {"name": base.name, "sha256": base_sha256, "data": base.data, "provenance": dict(base.provenance)}
    provenance = {"recipe": asdict(recipe), "images": len(data.train), "torch": torch.__version__, "base": origin}
    terms = combined_terms(base, data)
    return Card(name, data.class_names, data.name, base.mean, base.std, terms=terms, provenance=provenance)


def combined_terms(base: Card, data: ImageSet) -> str | None:
    """The conditions of the base and of the images it was adapted to; both hold. None where there are none."""
    if not base.terms or not data.terms or data.terms in base.terms:
        return base.terms or data.terms
    return f"Adapted from {base.name}: {base.terms} Adapted to {data.name}: {data.terms}"

"""A space and a recipe so small that a training step takes milliseconds."""

from dataclasses import replace

from elasticvit.archs.space import ConvChoices, Space, VitChoices
from elasticvit.training.augment.augment import Augment
from elasticvit.training.optim import Optim
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Sampling


def tiny_space(classes: int = 10) -> Space:
    a, b, c, d = (
        VitChoices((low, high), (1,), (1, 2), (1, 2)) for low, high in ((16, 32), (16, 48), (32, 64), (48, 80))
    )
    return Space(
        name="tiny",
        resolutions=(16, 32),
        stem=ConvChoices((4, 8), (1,), (3,), (1,)),
        conv=(ConvChoices((8, 12), (1,), (3,), (2,)), ConvChoices((12, 16), (1,), (3,), (2,))),
        vit=(a, b, c, d),
        hidden=32,
        classes=classes,
    )


def tiny_recipe(**changes: object) -> Recipe:
    """`lr`, `ema` and other fields of `Optim` may be given like those of the recipe."""
    optim = {name: changes.pop(name) for name in list(changes) if name in Optim.__dataclass_fields__}
    recipe = Recipe(
        name="tiny",
        data="digits",
        space=tiny_space(),
        steps=8,
        batch=16,
        sampling=Sampling(subnets=2, levels=3),
        optim=replace(Optim(lr=2e-3, warmup=2), **optim),  # type: ignore[arg-type]
        augment=Augment(rotate=5, shift=0.05, scale=0.05),
        save_every=3,
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]

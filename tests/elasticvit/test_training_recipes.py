"""Recipes: that they are whole, and that the numbers people rely on stay."""

from dataclasses import replace

import pytest

from elasticvit.accuracy import accuracy_of
from elasticvit.errors import DataError
from elasticvit.space import paper, small
from elasticvit.training.batches import parts_of
from elasticvit.training.data import digits
from elasticvit.training.distributed import World
from elasticvit.training.loop import train
from elasticvit.training.losses import Loss
from elasticvit.training.optim import Optim, learning_rate
from elasticvit.training.recipes import RECIPES, cifar10_cpu, cpu_minutes, named_recipe, paper_16gpu
from elasticvit.training.sampling import Bank, Preference, Sampler, Sampling


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole(name: str) -> None:
    recipe = named_recipe(name)
    assert 0 < recipe.optim.warmup < recipe.steps - recipe.optim.cooldown
    assert recipe.to_json() == named_recipe(name).to_json() != replace(recipe, seed=1).to_json()
    assert parts_of(recipe, World()) == recipe.accumulate


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="known: cifar10_1gpu, cifar10_cpu, cpu_minutes, digits"):
        named_recipe("imagenet")


def test_cifar10_on_a_cpu_keeps_its_meaning() -> None:
    """What the stored run of this name was trained with."""
    recipe = cifar10_cpu()
    assert (recipe.steps, recipe.batch, recipe.accumulate, recipe.seed) == (12_000, 64, 1, 0)
    assert recipe.sampling == Sampling(strategy="adjacent", subnets=2, levels=6, include=("smallest",))
    assert recipe.optim == Optim(lr=2e-3, lr_end=0.01, warmup=400, weight_decay=0.05, decay="matrices", clip=1.0)
    assert recipe.loss == Loss(smoothing=0.1, distil=0.5, inplace="soft")
    assert (recipe.augment.crop, recipe.augment.flip, recipe.mix.mixup, recipe.mix.cutmix) == (4, True, 0, 0)
    assert (recipe.space, recipe.precision, recipe.optim.ema) == (small(10), "float32", None)


def test_the_paper_is_trained_with_the_authors_numbers() -> None:
    """Reference architecture, sections 3.1 to 3.5."""
    recipe = paper_16gpu()
    epoch = 1_281_167 // (16 * 96)
    assert recipe.space == paper(1000) and parts_of(recipe, World(3, 16)) == 16
    assert (recipe.batch, recipe.steps) == (16 * 96, 610 * epoch)
    rates = [learning_rate(recipe.optim, step, recipe.steps) for step in (0, 5 * epoch - 1, 600 * epoch, 610 * epoch)]
    assert rates == pytest.approx([3e-6, 1.5e-3, 1.5e-5, 1.5e-5], rel=0.15)
    assert (recipe.optim.weight_decay, recipe.optim.decay, recipe.optim.agc) == (0.05, "authors", 0.1)
    assert (recipe.optim.ema, recipe.loss) == (0.99985, Loss(smoothing=0.1, distil=1.0, inplace="alpha"))
    assert (recipe.sampling.subnets, recipe.sampling.bank, recipe.sampling.preference) == (3, Bank(), Preference())
    assert recipe.sampling.levels == (100, 200, 300, 400, 500, 700, 900, 1200)
    assert (recipe.mix.mixup, recipe.mix.cutmix, recipe.augment.flip) == (0.01, 0.01, True)
    assert recipe.precision == "float32"
    Sampler(recipe.space, recipe.sampling)


@pytest.mark.slow
def test_the_whole_method_learns_digits_in_minutes() -> None:
    """The shipped recipe to its end: far above chance at every size; the last weights' average is handed out."""
    supernet = train(cpu_minutes(), digits())
    archs = [small().smallest(), small().largest()]
    top1 = [accuracy_of(supernet, arch, digits()).top1 for arch in archs]
    assert min(top1) > 0.8, top1

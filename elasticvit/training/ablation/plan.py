"""What is compared: four ways to choose sub-networks, on a miniature of the paper's space; everything else is equal.

Two plans: `short` has no external teacher and takes two hours of a core; `fair` trains every method as the authors'
code does, with one external teacher, for 16 times as many steps and over 2.5 times the range of costs.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from elasticvit.archs.space import ConvChoices, Space, VitChoices
from elasticvit.costs.levels import Floors
from elasticvit.errors import DataError, SpaceError
from elasticvit.training.augment.augment import Augment
from elasticvit.training.losses import Loss
from elasticvit.training.optim import Optim
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Bank, Preference, Sampling

Config = Literal["sandwich", "adjacent", "hss", "performance"]
CONFIGS: tuple[Config, ...] = get_args(Config)
LABELS: dict[Config, str] = {
    "sandwich": "sandwich rule",
    "adjacent": "adjacent step",
    "hss": "+ HSS",
    "performance": "++ performance-aware",
}
PlanName = Literal["short", "fair"]


def miniature(classes: int) -> Space:
    """The paper's structure at 16 to 48 pixels: 0.6 to 11 MFLOPs, a range of 1 to 19 (the paper's: 1 to 85)."""
    return Space(
        name="miniature",
        resolutions=(16, 32, 48),
        stem=ConvChoices((8, 16), (1,), (3, 5), (1,)),
        conv=(
            ConvChoices((8, 16, 24), (1, 2), (3, 5), (2, 3, 4)),
            ConvChoices((16, 24, 32), (1, 2), (3, 5), (2, 3, 4)),
        ),
        vit=(
            VitChoices((32, 48, 64), (1, 2), (2, 3, 4), (2, 3, 4)),
            VitChoices((48, 64, 80), (1, 2), (2, 3, 4), (2, 3, 4)),
            VitChoices((64, 80, 96), (1, 2), (2, 3, 4), (2, 3, 4)),
            VitChoices((80, 96, 112), (1, 2), (2, 3, 4), (2, 3, 4)),
        ),
        hidden=256,
        classes=classes,
    )


def wide_miniature(classes: int) -> Space:
    """`miniature` with a smaller width in every stage: 0.23 to 11 MFLOPs, a range of 1 to 49."""
    space, v_or_mlp = miniature(classes), (2, 3, 4)
    return replace(
        space,
        name="miniature-wide",
        stem=replace(space.stem, widths=(4, 8, 16)),
        conv=(
            replace(space.conv[0], widths=(4, 8, 16, 24)),
            replace(space.conv[1], widths=(8, 16, 24, 32)),
        ),
        vit=(
            VitChoices((16, 32, 48, 64), (1, 2), v_or_mlp, v_or_mlp),
            VitChoices((32, 48, 64, 80), (1, 2), v_or_mlp, v_or_mlp),
            VitChoices((32, 64, 80, 96), (1, 2), v_or_mlp, v_or_mlp),
            VitChoices((48, 80, 96, 112), (1, 2), v_or_mlp, v_or_mlp),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the outcome but the seeds. Costs are MFLOPs of the paper's formula."""

    name: PlanName = "short"
    teacher: bool = False
    """Whether an external teacher, the space's largest network trained alone for `steps` steps, teaches in every
    method, with the losses of the authors' code: sampled sub-networks learn from it and from labels, half and half; the
    smallest from the mean of the sampled ones by the adaptive alpha-divergence; in the sandwich the largest learns from
    the teacher, and all others from the largest."""
    curve: tuple[int, ...] = ()
    """Steps after which a supernet is measured on the way; the last step is always measured."""
    meta_divisor: int = 1
    """Floors are found on a supernet that was trained for `steps // meta_divisor` steps (supplement E: a sixth)."""
    save_every: int = 100
    """Steps between checkpoints."""
    data: str = "tiny-imagenet:20@48"
    space: Space = field(default_factory=lambda: miniature(20))
    steps: int = 500
    batch: int = 64
    lr: float = 2e-3
    levels: tuple[float, ...] = (0.8, 1.2, 1.9, 3.2, 5.5)
    """Targets of training and of the comparison; the paper's are 100 to 1200."""
    band: float = 0.2
    """A level of target F holds [F, F + band]."""
    smallest_to: float = 1.2
    """Levels to this one keep the smallest sub-network of the space as theirs."""
    floors: tuple[tuple[float, float], ...] = ((3.2, 0.9), (5.5, 1.9))
    """For the levels above, to a key: the cost of the smallest sub-network that they get instead (HSS)."""
    searched: int = 24
    """Candidates among which a floor is found."""
    candidates: int = 5
    """Sub-networks per level: as many drawn from all of it as above its floor. The best of all is reported."""
    similar: tuple[float, ...] = (0.8, 1.9, 5.5)
    """Levels of the table of gradient similarities."""
    good: int = 3
    """How many of a level's candidates are called good there."""
    spread: int = 5
    """Candidates a level among which similarity is held against difference in cost."""
    gradient_batch: int = 128
    """Images of the batch that all gradients are of."""
    scratch: tuple[float, ...] = (0.8, 5.5)
    """Levels whose best sub-network is trained from scratch."""
    scratch_factors: tuple[int, ...] = (1, 4)
    """Its steps, as multiples of the supernet's. A supernet's step runs four networks: 4 is equal work, 1 equal
    images."""

    def identity(self) -> str:
        """Canonical JSON; results are only continued by the plan that began them."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `identity` wrote. Raises `DataError`."""
        try:
            data = json.loads(text)
            return cls(
                **{name: _tuples(value) for name, value in data.items()} | {"space": Space.from_json(data["space"])}
            )
        except (KeyError, TypeError, ValueError, SpaceError) as error:
            raise DataError(f"not a plan of an ablation: {error!r}; take another --out") from error

    @property
    def meta_steps(self) -> int:
        """Steps of the supernet on which floors are found."""
        return max(1, self.steps // self.meta_divisor)

    @property
    def way_points(self) -> tuple[int, ...]:
        """Steps before the last one after which supernets are measured."""
        return tuple(step for step in self.curve if step < self.steps)

    def recipe(self, config: Config, floors: Floors, seed: int, images: int) -> Recipe:
        """The training of one supernet on this many images; of a seed all configurations see the same, in one order."""
        return Recipe(
            name=f"ablation-{config}",
            data=self.data,
            space=self.space,
            steps=self.steps,
            batch=self.batch,
            sampling=self._sampling(config, floors, max(1, math.ceil(self.steps * self.batch / images))),
            optim=Optim(lr=self.lr, warmup=max(1, self.steps // 10)),
            loss=Loss(distil=1.0, inplace="alpha") if self.teacher else Loss(),
            augment=Augment(crop=4, flip=True),
            seed=seed,
            save_every=self.save_every,
        )

    def _sampling(self, config: Config, floors: Floors, epochs: int) -> Sampling:
        """Four sub-networks per step in all of them: three and the smallest, or the sandwich's two and both ends."""
        if config == "sandwich":
            return Sampling(strategy="sandwich", subnets=2)
        adjacent = Sampling(strategy="adjacent", subnets=3, levels=self.levels, band=self.band)
        if config == "adjacent":
            return adjacent
        hierarchical = replace(adjacent, floors=floors)
        if config == "hss":
            return hierarchical
        # The paper's q rises from 0.2 to 0.95 over its run; so does this.
        q_step = 0.75 / epochs
        bank = Bank(capacity=24, q=max(0.0, 0.2 - q_step), q_step=q_step, q_every=1)
        return replace(hierarchical, bank=bank, preference=Preference(candidates=5))


def short_plan(classes: int = 20) -> Plan:
    """500 steps, no external teacher: two hours of a core."""
    return Plan(data=f"tiny-imagenet:{classes}@48", space=miniature(classes))


def fair_plan(classes: int = 20) -> Plan:
    """8,000 steps with an external teacher, over costs of 0.23 to 11 MFLOPs; some 15 hours of a core for 3 seeds.

    One level more than `short`, at the small end.
    """
    return Plan(
        name="fair",
        teacher=True,
        curve=(500, 1000, 2000, 4000, 8000),
        meta_divisor=6,
        data=f"tiny-imagenet:{classes}@48",
        space=wide_miniature(classes),
        steps=8000,
        levels=(0.4, 0.8, 1.2, 1.9, 3.2, 5.5),
        scratch_factors=(1,),
    )


PLANS: dict[PlanName, Callable[[int], Plan]] = {"short": short_plan, "fair": fair_plan}


def _tuples(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

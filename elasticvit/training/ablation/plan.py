"""What is compared: four ways to choose sub-networks, on a miniature of the paper's space; everything else is equal."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from elasticvit.archs.arch import Arch
from elasticvit.archs.space import ConvChoices, Space, VitChoices
from elasticvit.errors import DataError, SpaceError
from elasticvit.training.augment.augment import Augment
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
Floors = tuple[tuple[float, Arch], ...]


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the outcome but the seeds. Costs are MFLOPs of the paper's formula."""

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
    """Sub-networks a level that are drawn from all of it, and as many above its floor; the best of both is reported."""
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
            augment=Augment(crop=4, flip=True),
            seed=seed,
            save_every=100,
        )

    def _sampling(self, config: Config, floors: Floors, epochs: int) -> Sampling:
        """Four sub-networks a step in all of them: three and the smallest, or the sandwich's two and both ends."""
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


def _tuples(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

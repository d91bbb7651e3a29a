"""The number of architectures of a space, with the arithmetic: as the paper counts, and without impossible ones."""

from dataclasses import dataclass
from math import prod

from elasticvit.archs.space import WIDTH_AT, Space


@dataclass(frozen=True)
class Count:
    """A number of architectures, as a product of named factors."""

    factors: dict[str, int]

    @property
    def members(self) -> int:
        return prod(self.factors.values())

    def to_dict(self) -> dict[str, object]:
        """Members, factors and the written-out product, for JSON."""
        arithmetic = f"{' * '.join(str(n) for n in self.factors.values())} = {self.members:,} = {self.members:.4e}"
        return {"members": self.members, "factors": self.factors, "arithmetic": arithmetic}


def paper_count(space: Space) -> Count:
    """The product of all numbers of choices, with the width of the first convolution counted apart from the stem's.

    This is the paper's 1.09e17 (Table 1). No network has two different widths there, and the authors' sampler never
    lets widths decrease, so `reachable_count` is the number of networks that exist.
    """
    stages: dict[str, int] = {"resolution": len(space.resolutions), "first_conv": len(space.stem.widths)}
    for name, choices in space.dimensions[1:]:
        stage = name.split(".")[0]
        stages[stage] = stages.get(stage, 1) * len(choices)
    return Count(stages)


def reachable_count(space: Space) -> Count:
    """Members of the space: one width for first convolution and stem, widths that do not decrease."""
    other_choices = prod(len(choices) for i, (_, choices) in enumerate(space.dimensions) if i not in WIDTH_AT)
    return Count({"widths": space.count() // other_choices, "others": other_choices})

"""What happens next: an action drawn at random from what is still to be done, from a seed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

ALL = "all"
# The tree is killed whole seldom, because its restart takes longer than most of what is to be disturbed.
KILLS = (
    "server",
    "worker",
    "agent",
    "exporter",
    "benchmark",
    "server",
    "worker",
    "agent",
    "exporter",
    "benchmark",
    ALL,
)


@dataclass(frozen=True)
class Amounts:
    """How many of each action a run takes; kills are spread over the whole run."""

    searches: int
    uploads: int
    measurements: int
    kills: int

    def actions(self, rng: random.Random) -> list[str]:
        """All actions in random order; a kill names what is killed."""
        chosen = [rng.choice(KILLS) for _ in range(self.kills)]
        # Of each kind at least one, if there are enough.
        for kind, place in zip(dict.fromkeys(KILLS), rng.sample(range(self.kills), self.kills), strict=False):
            chosen[place] = kind
        actions = ["search"] * self.searches + ["upload"] * self.uploads + ["measure"] * self.measurements
        actions += [f"kill {kind}" for kind in chosen]
        rng.shuffle(actions)
        return actions


def for_duration(seconds: float) -> Amounts:
    """A search every 30 s, an upload and a measurement a minute, and a kill every two minutes."""
    return Amounts(int(seconds / 30), int(seconds / 60), int(seconds / 60), int(seconds / 120))


def counted(actions: list[str]) -> dict[str, int]:
    """How many of each action there are."""
    return dict(Counter(actions))

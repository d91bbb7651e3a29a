"""What a verified search knows of its rounds: the checkpoint from which it goes on after its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from elasticvit.archs.space import Codes, Space
from elasticvit.errors import SpaceError
from server.errors import Conflict


@dataclass(frozen=True)
class Chosen:
    """A chosen sub-network and the model that it was exported to."""

    code: tuple[int, ...]
    model_id: str


@dataclass(frozen=True)
class SearchRounds:
    """The frontier for the budget, codes (m, D); and of each round the sub-networks that it chose, the last of them
    below `bound_ms`."""

    frontier: Codes
    bound_ms: float
    chosen: tuple[tuple[Chosen, ...], ...]

    @property
    def newest(self) -> tuple[Chosen, ...]:
        """The sub-networks of the last round."""
        return self.chosen[-1]

    @property
    def all(self) -> tuple[Chosen, ...]:
        """The sub-networks of all rounds, in their order."""
        return tuple(chain.from_iterable(self.chosen))

    def to_json(self) -> dict[str, Any]:
        return {
            "frontier": self.frontier.tolist(),
            "bound_ms": self.bound_ms,
            "chosen": [[{"code": list(one.code), "model_id": one.model_id} for one in round] for round in self.chosen],
        }

    @classmethod
    def from_checkpoint(cls, space: Space, checkpoint: Mapping[str, Any] | None) -> SearchRounds | None:
        """What `to_json` wrote; None without a checkpoint. Raises Conflict for codes of another space."""
        if checkpoint is None:
            return None
        chosen = tuple(
            tuple(Chosen(tuple(one["code"]), one["model_id"]) for one in round) for round in checkpoint["chosen"]
        )
        try:
            for round in chosen:
                space.checked([one.code for one in round])
            frontier = space.checked(checkpoint["frontier"])
        except SpaceError as error:
            raise Conflict("the supernet was replaced while this search waited: search again") from error
        return cls(frontier, float(checkpoint["bound_ms"]), chosen)

"""The state of a training run on disk, whole or not at all."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elasticvit.atomic import atomic_file
from elasticvit.errors import ElasticVitError
from elasticvit.nn.supernet_file import Card
from elasticvit.training.ema import Ema
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import SamplerState

FORMAT = "elasticvit-checkpoint/2"


class CheckpointError(ElasticVitError):
    """A checkpoint cannot be written or continued."""


class UnusableCheckpointError(CheckpointError):
    """A checkpoint is damaged or of another recipe."""


def no_scaler() -> torch.amp.GradScaler:
    """For precisions whose gradients do not vanish."""
    return torch.amp.GradScaler("cpu", enabled=False)


@dataclass
class State:
    """What changes from step to step. Random numbers are no part of it: they follow from the step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    scaler: torch.amp.GradScaler = field(default_factory=no_scaler)
    sampler: SamplerState = field(default_factory=SamplerState)
    step: int = 0


def save_checkpoint(path: Path, recipe: Recipe, teachers: int, state: State, card: Card | None = None) -> None:
    """Write the state; readers see the old file or the new one, never a part.

    Args:
        teachers: how many taught; only a run of the same recipe with as many may go on.
        card: of the supernet file to come, for `elasticvit.training.snapshot`.

    Raises:
        CheckpointError: the disk refuses.
    """
    content = {
        "format": FORMAT,
        "made_by": f"{recipe.to_json()} {teachers} teachers",
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "ema": None if state.ema is None else state.ema.state_dict(),
        "scaler": state.scaler.state_dict(),
        "sampler": state.sampler.to_dict(),
        "step": state.step,
        "card": None if card is None else card.to_json(),
    }
    try:
        with atomic_file(path, parents=True, single_writer=True) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch turns some of the disk's refusals into its own error
        raise CheckpointError(
            f"cannot write {path}: {error}; nothing was changed. Make room and start the same command again"
        ) from error


def read_checkpoint(path: Path, recipe: Recipe, teachers: int) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, None where there is nothing.

    Raises:
        UnusableCheckpointError: the file is damaged or another run's; delete it to start anew.
    """
    if not path.exists():
        return None
    content = load_checkpoint(path)
    made_by, taught_by = _origin(content)
    if taught_by != f"{teachers} teachers" or not recipe.continues(made_by):
        raise UnusableCheckpointError(f"{path} belongs to another recipe; delete it to start anew")
    return content


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, whichever recipe it was. Raises `UnusableCheckpointError` for a damaged file."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written_as, _ = content["format"], _origin(content)
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UnusableCheckpointError(f"{path} is damaged: {error!r}; delete it to start anew") from error
    if written_as != FORMAT:
        raise UnusableCheckpointError(f"{path} has another format, {written_as!r}; delete it to start anew")
    for name, tensor in _tensors({part: content.get(part) for part in ("model", "ema", "optimizer")}):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UnusableCheckpointError(f"{path} holds NaN or infinite numbers in {name}; delete it to start anew")
    return content


def _tensors(held: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dictionaries, with the keys that lead to them."""
    if isinstance(held, Tensor):
        yield name, held
    elif isinstance(held, dict):
        for key, inner in held.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))


def recipe_of(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of the recipe, as `Recipe.to_json` wrote them into what `load_checkpoint` gave."""
    settings: dict[str, Any] = json.loads(_origin(content)[0])
    return settings


def _origin(content: dict[str, Any]) -> tuple[str, str]:
    """The recipe as JSON, and who taught."""
    made_by, _, taught_by = content["made_by"].rpartition("} ")
    return made_by + "}", taught_by


def restore(state: State, content: dict[str, Any]) -> None:
    """Put what `read_checkpoint` gave into `state`.

    Raises:
        UnusableCheckpointError: tensors are missing, too many or of other shapes.
    """
    try:
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        if state.ema is not None:
            state.ema.load_state_dict(content["ema"])
        state.scaler.load_state_dict(content["scaler"])
        state.sampler = SamplerState.from_dict(content["sampler"])
        state.step = int(content["step"])
    except (RuntimeError, KeyError, ValueError, TypeError, ElasticVitError) as error:
        raise UnusableCheckpointError(f"the checkpoint does not fit the network: {error}; delete it") from error

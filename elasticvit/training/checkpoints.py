"""Checkpoints: the state of a training run on disk, written atomically."""

import json
from collections.abc import Iterator, Mapping
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
    """A checkpoint is damaged or of another training recipe."""


def no_scaler() -> torch.amp.GradScaler:
    """For precisions whose gradients do not vanish."""
    return torch.amp.GradScaler("cpu", enabled=False)


@dataclass
class State:
    """Everything that changes from step to step, except random numbers, which depend on the step only."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    scaler: torch.amp.GradScaler = field(default_factory=no_scaler)
    sampler: SamplerState = field(default_factory=SamplerState)
    step: int = 0


def save_checkpoint(
    path: Path,
    recipe: Recipe,
    teachers: int,
    state: State,
    card: Card | None = None,
    images: Mapping[str, str] | None = None,
) -> None:
    """Write the state atomically: readers see the old file or the new one.

    Args:
        teachers: number of teachers; only a run of the same recipe with the same number may continue.
        card: of the supernet file that the run will write, for `elasticvit.training.snapshot`.
        images: what `ImageSet.fingerprint` gives; only a run on the same classes and images may continue.

    Raises:
        CheckpointError: the file cannot be written.
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
        "images": None if images is None else dict(images),
    }
    try:
        with atomic_file(path, parents=True, single_writer=True) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for some errors of the disk
        raise CheckpointError(
            f"cannot write {path}: {error}; nothing was changed. Make room and run the same command again"
        ) from error


def read_checkpoint(
    path: Path, recipe: Recipe, teachers: int, images: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """The content of a checkpoint that `save_checkpoint` wrote, or None without a file.

    Raises:
        UnusableCheckpointError: the file is damaged or of another run; delete it to start again.
    """
    if not path.exists():
        return None
    content = load_checkpoint(path)
    made_by, taught_by = _origin(content)
    if taught_by != f"{teachers} teachers" or not recipe.continues(made_by):
        raise UnusableCheckpointError(f"{path} belongs to another training recipe; delete it to start again")
    _check_images(path, content, images or {})
    return content


def _check_images(path: Path, content: Mapping[str, Any], images: Mapping[str, str]) -> None:
    """Raises `UnusableCheckpointError` if the state was trained on other classes or images; a checkpoint of an earlier
    version has no more than the class names of its card."""
    before: Mapping[str, str] = content.get("images") or {}
    if not before and content.get("card"):
        before = {"classes": json.dumps(json.loads(content["card"])["class_names"])}
    for what in sorted(before.keys() & images.keys()):
        if before[what] != images[what]:
            change = f" (they were {before[what]}, now {images[what]})" if what == "classes" else ""
            raise UnusableCheckpointError(
                f"{path} was trained on other {what}{change:.400}; undo the change to continue, or delete the file to "
                "start again"
            )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of any recipe. Raises `UnusableCheckpointError` for a damaged file."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        written_as, _ = content["format"], _origin(content)
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UnusableCheckpointError(f"{path} is damaged: {error!r}; delete it to start again") from error
    if written_as != FORMAT:
        raise UnusableCheckpointError(f"{path} has another format, {written_as!r}; delete it to start again")
    for name, tensor in _tensors({key: content.get(key) for key in ("model", "ema", "optimizer")}):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UnusableCheckpointError(f"{path} holds NaN or infinite numbers in {name}; delete it to start again")
    return content


def _tensors(held: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dictionaries, with their dotted keys."""
    if isinstance(held, Tensor):
        yield name, held
    elif isinstance(held, dict):
        for key, inner in held.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))


def recipe_of(content: dict[str, Any]) -> dict[str, Any]:
    """The settings of the training recipe (`Recipe.to_json`) in the content of a checkpoint."""
    settings: dict[str, Any] = json.loads(_origin(content)[0])
    return settings


def _origin(content: dict[str, Any]) -> tuple[str, str]:
    """The recipe as JSON, and the teachers as text."""
    made_by, _, taught_by = content["made_by"].rpartition("} ")
    return made_by + "}", taught_by


def restore(state: State, content: dict[str, Any]) -> None:
    """Restore `state` from the content of a checkpoint.

    Raises:
        UnusableCheckpointError: tensors are missing, unexpected or of other shapes.
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

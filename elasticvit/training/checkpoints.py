"""The state of a training run on disk, whole or not at all."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from elasticvit.errors import ElasticVitError
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.recipes import Recipe

FORMAT = "elasticvit-checkpoint/1"


class CheckpointError(ElasticVitError):
    """A checkpoint cannot be written or continued."""


class UnusableCheckpointError(CheckpointError):
    """A checkpoint is damaged or of another recipe."""


class StoppedError(ElasticVitError):
    """A run was asked to stop; its checkpoint, if it has one, is saved."""


@dataclass
class State:
    """What changes from step to step. Random numbers are no part of it: they follow from the step."""

    supernet: SuperNet
    optimizer: torch.optim.Optimizer
    step: int = 0
    level: int = 0


def save_checkpoint(path: Path, recipe: Recipe, state: State) -> None:
    """Write the state; readers see the old file or the new one, never a part. Raises `CheckpointError`."""
    content = {
        "format": FORMAT,
        "recipe": recipe.to_json(),
        "supernet": state.supernet.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "level": state.level,
    }
    # One name for the part, so that a killed run leaves no more than one.
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; nothing was changed") from error


def load_checkpoint(path: Path, recipe: Recipe, state: State) -> None:
    """Put what `save_checkpoint` wrote into `state`.

    Raises:
        UnusableCheckpointError: the file is damaged or another recipe's; delete it to start anew.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        made_by = content["format"], content["recipe"]
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UnusableCheckpointError(f"{path} is damaged: {error!r}; delete it to start anew") from error
    if made_by != (FORMAT, recipe.to_json()):
        raise UnusableCheckpointError(f"{path} belongs to another recipe; delete it to start anew")
    state.supernet.load_state_dict(content["supernet"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.level = content["step"], content["level"]

"""The state of a training run on disk, whole or not at all."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch

from elasticvit.errors import ElasticVitError
from elasticvit.nn.supernet import SuperNet
from elasticvit.training.recipes import Recipe

FORMAT = "elasticvit-checkpoint/1"


class CheckpointError(ElasticVitError):
    """A checkpoint cannot be continued."""


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; nothing was changed") from error


def load_checkpoint(path: Path, recipe: Recipe, state: State) -> None:
    """Put what `save_checkpoint` wrote into `state`.

    Raises:
        CheckpointError: the file is damaged or another recipe's; delete it to start anew.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT or content["recipe"] != recipe.to_json():
            raise CheckpointError(f"{path} belongs to another recipe; delete it to start anew")
        state.supernet.load_state_dict(content["supernet"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.step, state.level = content["step"], content["level"]
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; delete it to start anew") from error

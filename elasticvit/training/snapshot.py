"""A supernet file from the checkpoint of a run that has not ended."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from elasticvit.archs.space import Space
from elasticvit.errors import DataError, SpaceError
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, replace_supernet
from elasticvit.training.checkpoints import UnusableCheckpointError, load_checkpoint, recipe_of


def checkpoint_path(out: Path) -> Path:
    """The checkpoint of a run that writes the supernet `out`."""
    return out.with_name(f".{out.name}.checkpoint")


def snapshot(run: Path, out: Path) -> int:
    """Write the supernet `out` from the checkpoint of the run that will write `run`, which may still be running.

    The weights are the averaged ones if the training recipe averages; the card's provenance has the `step`.

    Returns:
        The step.

    Raises:
        DataError: there is no checkpoint.
        UnusableCheckpointError: the checkpoint is damaged, or not of a supernet that gets a file.
        SupernetFileError: the file cannot be written.
    """
    path = checkpoint_path(run)
    if not path.is_file():
        raise DataError(f"no checkpoint {path}; name the output file of the run, and start it first")
    content = load_checkpoint(path)
    recipe, step = recipe_of(content), int(content["step"])
    supernet = _supernet(path, recipe, content["model"] if content["ema"] is None else content["ema"])
    card = _card(path, content)
    replace_supernet(out, supernet, replace(card, provenance={**card.provenance, "step": step}))
    return step


def _card(path: Path, content: dict[str, Any]) -> Card:
    """The card of the file that the run will write; scaling and terms may come from the supernet it started from."""
    if content.get("card") is None:
        raise UnusableCheckpointError(f"{path} has no card: `train` was called without one")
    try:
        return Card.from_json(content["card"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableCheckpointError(f"{path} has a damaged card: {error!r}") from error


def _supernet(path: Path, recipe: dict[str, Any], weights: dict[str, torch.Tensor]) -> SuperNet:
    try:
        supernet = SuperNet(Space.from_json(recipe["space"]))
        supernet.load_state_dict(weights)
    except (SpaceError, RuntimeError, KeyError) as error:
        raise UnusableCheckpointError(f"{path} is not of a supernet: {error}") from error
    return supernet.eval()

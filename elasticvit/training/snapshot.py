"""A supernet file of a run that has not ended: to look at, to serve meanwhile, or to keep where a run is given up."""

from pathlib import Path
from typing import Any

import torch

from elasticvit.errors import DataError, SpaceError
from elasticvit.nn.files import Card, save_supernet
from elasticvit.nn.supernet import SuperNet
from elasticvit.space import Space
from elasticvit.training.checkpoints import UnusableCheckpointError, load_checkpoint, recipe_of
from elasticvit.training.data import load_named


def checkpoint_path(out: Path) -> Path:
    """Where a run that writes the supernet `out` keeps its state."""
    return out.with_name(f".{out.name}.checkpoint")


def snapshot(run: Path, out: Path) -> int:
    """Write the supernet `out` from the checkpoint of the run that will write `run`, which may be under way.

    The weights are the averaged ones where the recipe averages; `step` in the card's provenance says how far they came.

    Returns:
        The step.

    Raises:
        DataError: there is no checkpoint, or the run's images cannot be had.
        UnusableCheckpointError: the checkpoint is damaged, or not of a supernet.
        SupernetFileError: the disk refuses.
    """
    path = checkpoint_path(run)
    if not path.is_file():
        raise DataError(f"no checkpoint {path}; name the file that the run was told to write, and start it first")
    content = load_checkpoint(path)
    recipe, step = recipe_of(content), int(content["step"])
    supernet = _supernet(path, recipe, content["model"] if content["ema"] is None else content["ema"])
    data = load_named(recipe["data"])
    provenance = {"recipe": recipe, "images": len(data.train), "torch": torch.__version__, "step": step}
    card = Card(recipe["name"], data.class_names, data.name, data.mean, data.std, data.terms, provenance)
    save_supernet(out, supernet, card)
    return step


def _supernet(path: Path, recipe: dict[str, Any], weights: dict[str, torch.Tensor]) -> SuperNet:
    try:
        supernet = SuperNet(Space.from_json(recipe["space"]))
        supernet.load_state_dict(weights)
    except (SpaceError, RuntimeError, KeyError) as error:
        raise UnusableCheckpointError(f"{path} is not of a supernet: {error}") from error
    return supernet.eval()

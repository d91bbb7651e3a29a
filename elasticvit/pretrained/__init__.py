"""Supernets that ship with this package: a file, its table of evaluated sub-networks, and a card for people."""

from pathlib import Path

from elasticvit.accuracy.table import table_path

FOLDER = Path(__file__).parent
DEFAULT = "cifar10"
TRAINED_HERE = "digits"
"""Ships as a recipe: it is trained in a minute or two, on images that are everywhere."""


def shipped(name: str) -> Path | None:
    """The supernet file that ships under this name, None where none does."""
    path = FOLDER / f"{name}.safetensors"
    return path if path.is_file() and table_path(path).is_file() else None


def default_name() -> str:
    """The supernet that answers where none is named."""
    return DEFAULT if shipped(DEFAULT) else TRAINED_HERE

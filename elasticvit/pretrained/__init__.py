"""Supernets that ship with this package: a supernet file, its accuracy table, and a card to read."""

from pathlib import Path

from elasticvit.nn.supernet_header import ENDING, table_path

FOLDER = Path(__file__).parent
DEFAULT = "cifar10"
TRAINED_HERE = "digits"
"""Ships as a training recipe: it is trained in one or two minutes, on images that scikit-learn includes."""


def shipped(name: str) -> Path | None:
    """The supernet file that ships under this name, or None."""
    path = FOLDER / f"{name}{ENDING}"
    return path if path.is_file() and table_path(path).is_file() else None


def default_name() -> str:
    """The supernet that is used if no name is given."""
    return DEFAULT if shipped(DEFAULT) else TRAINED_HERE

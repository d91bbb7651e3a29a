"""The header of a supernet file: what it is, without its weights. Imports no torch.

The file is opened by the safetensors package, which maps it and reads no more than the header, whatever the size, and
refuses a file that does not end where its header says.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from elasticvit.archs.space import Space
from elasticvit.errors import SpaceError, SupernetFileError

FORMAT = "elasticvit-supernet/1"
ENDING = ".safetensors"
_CARD_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "data": (str,),
    "terms": (str, NoneType),
    "provenance": (dict,),
}


@dataclass(frozen=True)
class SupernetHeader:
    """The space of a supernet, and its card as the JSON object in the file (`elasticvit.nn.supernet_file.Card`)."""

    space: Space
    card: dict[str, Any]


def table_path(supernet: Path) -> Path:
    """The accuracy table of a supernet file: `NAME.accuracy.jsonl` beside `NAME.safetensors`."""
    return supernet.with_suffix(".accuracy.jsonl")


def open_safetensors(path: Path, framework: Literal["numpy", "pt"] = "numpy") -> Any:  # noqa: ANN401 - has no public type
    """An open safetensors file, to be used in a `with` statement.

    Raises:
        SupernetFileError: the file is missing, cut off, or of another format; its cause is an `OSError` if the disk
            refuses.
    """
    if path.is_dir():
        raise SupernetFileError(f"{path} is not a whole safetensors file: it is a folder")
    try:
        return safe_open(path, framework=framework)
    except SafetensorError as error:
        raise SupernetFileError(
            f"{path} is not a whole safetensors file, it is cut off or of another kind: {error}"
        ) from error
    except OSError as error:
        raise SupernetFileError(f"{path} is not a whole safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; {} if it has none. Raises `SupernetFileError`, as `open_safetensors` does."""
    with open_safetensors(path) as file:
        return dict(file.metadata() or {})


def read_supernet_header(path: Path) -> SupernetHeader:
    """Raises `SupernetFileError` for a file that is missing, cut off or no supernet."""
    return parse_supernet_header(path, read_metadata(path))


def parse_supernet_header(path: Path, metadata: Mapping[str, str] | None) -> SupernetHeader:
    """The header from the metadata of a file; `path` is for messages. Raises `SupernetFileError`."""
    metadata = metadata or {}
    if metadata.get("format") != FORMAT:
        raise SupernetFileError(f"{path} is no supernet file of format {FORMAT}: found {metadata.get('format')!r}")
    try:
        return SupernetHeader(Space.from_json(metadata["space"]), _checked_card(json.loads(metadata["card"])))
    except (KeyError, TypeError, ValueError, RecursionError, SpaceError) as error:
        raise SupernetFileError(f"{path} has a damaged header: {error}") from error


def _checked_card(card: object) -> dict[str, Any]:
    """Raises `TypeError` for a card that is no object, or that has a field of another type."""
    if not isinstance(card, dict):
        raise TypeError("its card is not a JSON object")
    for field, types in _CARD_TYPES.items():
        if field in card and not isinstance(card[field], types):
            raise TypeError(f"{field} of its card has the wrong type, {type(card[field]).__name__}")
    return card

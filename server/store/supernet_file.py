"""A supernet file on the disk, read by its header without its weights, and the accuracy table beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from elasticvit.archs.space import Space
from elasticvit.errors import SpaceError
from server.errors import BadValue, from_os_error
from server.store.blobs import file_sha256

FORMAT = "elasticvit-supernet/1"
ENDING = ".safetensors"


@dataclass(frozen=True)
class SupernetRef:
    """A supernet file as it is now, by what decides the models that come from it.

    Attributes:
        name, sha256: of its row in the database.
        table_sha256: of the accuracy table beside the file, None without a table.
    """

    name: str
    file: Path
    sha256: str
    table_sha256: str | None = None


@dataclass(frozen=True)
class Description:
    """The header of a supernet file; `card` as it is written there."""

    space: Space
    card: dict[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """The part of the card that is stored in the database."""
        return {**self.card.get("provenance", {}), "data": self.card.get("data"), "terms": self.card.get("terms")}


def describe(file: Path) -> Description:
    """Read the header of a supernet file. Raises BadValue for another file, or one that is cut off."""
    if not file.is_file():
        raise BadValue(f"there is no file {file} on the server's machine")
    try:
        with safe_open(file, framework="np") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        card: dict[str, Any] = json.loads(metadata["card"])
        return Description(Space.from_json(metadata["space"]), dict(card))
    except SafetensorError as error:
        raise BadValue(f"{file} is not a whole supernet file, it is cut off or of another kind: {error}") from error
    except (KeyError, TypeError, ValueError, SpaceError) as error:
        raise BadValue(f"{file} is not a whole supernet file: {error}") from error
    except OSError as error:
        raise from_os_error(error, str(file)) from error


def table_of(file: Path) -> Path:
    """Where the accuracy table of a supernet file is."""
    return file.with_suffix(".accuracy.jsonl")


def table_sha256(file: Path) -> str | None:
    """The SHA-256 of the accuracy table as it is now; None without a table."""
    table = table_of(file)
    try:
        status = table.stat()
        return _sha256_at(table, status.st_size, status.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=32)
def _sha256_at(file: Path, size_bytes: int, changed_ns: int) -> str:
    """Read once for each state of the file."""
    del size_bytes, changed_ns
    return file_sha256(file)

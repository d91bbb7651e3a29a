"""A supernet file on the disk, read by its header without its weights, and the accuracy table beside it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from elasticvit.archs.space import Space
from elasticvit.errors import SpaceError
from server.errors import BadValue, from_os_error
from server.store.blobs import file_sha256

FORMAT = "elasticvit-supernet/1"
ENDING = ".safetensors"
MAX_HEADER_BYTES = 100_000_000


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
        metadata = _metadata(file)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        card: dict[str, Any] = json.loads(metadata["card"])
        return Description(Space.from_json(metadata["space"]), dict(card))
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


def _metadata(file: Path) -> dict[str, str]:
    """The `__metadata__` of a safetensors file whose tensors are all there. Raises ValueError."""
    with file.open("rb") as opened:
        head = opened.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else MAX_HEADER_BYTES + 1
        if size > MAX_HEADER_BYTES:
            raise ValueError("it has no safetensors header")
        header = json.loads(opened.read(size))
    if not isinstance(header, dict):
        raise ValueError("it has no safetensors header")
    metadata = header.pop("__metadata__", {})
    end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    if file.stat().st_size != 8 + size + end:
        raise ValueError("it is cut off")
    return dict(metadata)

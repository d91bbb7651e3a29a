"""What may go into a JSON column of either database."""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from server.errors import BadValue

V = TypeVar("V")


def storable(value: V) -> V:
    """`value` itself. Raises BadValue for NaN, infinities, broken Unicode and NUL, which JSON or PostgreSQL refuse."""
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, UnicodeEncodeError, RecursionError) as error:
        raise BadValue("a value in the body is not plain JSON: NaN, Infinity or broken text") from error
    if b"\\u0000" in encoded:
        raise BadValue("a text in the body holds a NUL character")
    return value


def digest(value: object) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys. Raises BadValue like `storable`."""
    return hashlib.sha256(json.dumps(storable(value), sort_keys=True).encode()).hexdigest()

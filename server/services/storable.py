"""Values that a JSON column of SQLite and PostgreSQL can hold."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TypeVar

from server.errors import BadValue

V = TypeVar("V")
# After an odd number of backslashes: a NUL character. After an even number these are six characters of plain text.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def storable(value: V) -> V:
    """`value` itself. Raises BadValue for NaN, infinities, broken Unicode and NUL, which JSON or PostgreSQL refuse."""
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, UnicodeEncodeError, RecursionError) as error:
        raise BadValue("a value in the body is not plain JSON: NaN, Infinity or broken text") from error
    if _ESCAPED_NUL.search(encoded):
        raise BadValue("a text in the body holds a NUL character")
    return value


def digest(value: object) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys. Raises BadValue like `storable`."""
    return hashlib.sha256(json.dumps(storable(value), sort_keys=True).encode()).hexdigest()

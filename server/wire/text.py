"""Text and JSON values that JSON, SQLite and PostgreSQL can all hold.

What devices print may hold any character. A NUL character cannot be stored by PostgreSQL, a lone surrogate cannot be
encoded as UTF-8; a report must not be lost for either, so both become U+FFFD, the replacement character. Values of any
type are bounded in every way: in number, depth and length, and numbers by what a 64-bit column holds.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

REPLACEMENT = "\ufffd"
MAX_TEXT_CHARS = 500
MAX_JSON_DEPTH = 32
MAX_JSON_NODES = 20_000
MAX_JSON_CHARS = 20_000
MAX_JSON_TOTAL_CHARS = 1_000_000
MAX_INTEGER = 2**63 - 1


def plain_text(text: str) -> str:
    """`text` with U+FFFD for NUL characters and lone surrogates; halves of one character are put together."""
    text = text.replace("\0", REPLACEMENT)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def plain_value(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """A JSON value with `plain_text` in every string and key. Raises ValueError where it is nested too deeply."""
    try:
        return _plain(value)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def bounded_json(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """A JSON value with `plain_text` in every string and key, and within the bounds of this module.

    Raises ValueError for one that is too deep, has too many values, or holds a string or number that is too long.
    """
    _check_bounds(value)
    return _plain(value)


def _check_bounds(value: Any) -> None:  # noqa: ANN401
    """Level by level, so that no depth of nesting exhausts the stack."""
    level, nodes, chars = [value], 0, 0
    for _ in range(MAX_JSON_DEPTH):
        nodes += len(level)
        chars += sum(len(item) for item in level if isinstance(item, str))
        if nodes > MAX_JSON_NODES or chars > MAX_JSON_TOTAL_CHARS:
            raise ValueError(f"more than {MAX_JSON_NODES} values or {MAX_JSON_TOTAL_CHARS} characters: send less")
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_JSON_DEPTH} levels deep: send a flatter value")


def _inside(value: Any) -> list[Any]:  # noqa: ANN401
    """The members of an object or an array. Raises ValueError for a string or a number that is too long."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and len(value) > MAX_JSON_CHARS:
        raise ValueError(f"a string of more than {MAX_JSON_CHARS} characters: send a shorter one")
    if isinstance(value, int) and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
        raise ValueError("an integer of more than 64 bits: send a smaller number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN or an infinity: send a finite number")
    return []


Plain = BeforeValidator(plain_value)
Text = Annotated[str, Plain, StringConstraints(max_length=MAX_TEXT_CHARS)]
BoundedJson = BeforeValidator(bounded_json)
Conditions = Annotated[dict[str, Any], BoundedJson]

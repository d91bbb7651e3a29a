"""Text that JSON, SQLite and PostgreSQL can all hold.

What devices print may hold any character. A NUL character cannot be stored by PostgreSQL, a lone surrogate cannot be
encoded as UTF-8; a report must not be lost for either, so both become U+FFFD, the replacement character.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

REPLACEMENT = "\ufffd"
MAX_TEXT_CHARS = 500


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


Plain = BeforeValidator(plain_value)
Text = Annotated[str, Plain, StringConstraints(max_length=MAX_TEXT_CHARS)]
Conditions = Annotated[dict[str, Any], Plain]

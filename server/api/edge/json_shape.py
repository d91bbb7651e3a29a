"""The depth and the number of values of a JSON text, bounded before it is parsed into objects.

Everything here runs over the bytes in C: a parser makes 50 and more bytes of memory of each `[]`.
"""

from __future__ import annotations

import re

from server.errors import BadValue

MAX_DEPTH = 64
MAX_VALUES = 1_500_000  # 50 rounds of 20,000 samples, and what describes them

STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|$)', re.DOTALL)
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_shape(text: bytes, max_values: int = MAX_VALUES) -> None:
    """Raises BadValue for a text that nests too deep, or holds too many values. It need not be valid JSON."""
    openings = text.count(b"[") + text.count(b"{")
    # Each value but the first stands behind a comma or an opening; a comma within a string counts, too.
    if len(text) > max_values and openings + text.count(b",") > max_values:
        raise BadValue(f"the body holds more than {max_values} values: send less at once")
    if openings > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise BadValue(f"the body nests deeper than {MAX_DEPTH} levels: send it flatter")


def depth(text: bytes) -> int:
    """How many brackets are open at once, at most; those within strings do not count."""
    deepest = level = 0
    for bracket in STRING.sub(b"", text).translate(None, NO_BRACKETS):
        if bracket in b"[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > MAX_DEPTH:
                break
        else:
            level -= 1
    return deepest

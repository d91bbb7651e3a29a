"""Hooks of schemathesis (SCHEMATHESIS_HOOKS): its threads parse Python one at a time.

hypothesis parses source files in several threads, and CPython 3.11 counts the depth of a tree for all threads
together: now and then it raises SystemError, "AST constructor recursion depth mismatch" (python/cpython#106905).
"""

from __future__ import annotations

import ast
import threading
from typing import Any

_lock = threading.Lock()
_parse = ast.parse


def _parse_alone(*given: Any, **named: Any) -> Any:  # noqa: ANN401  whatever ast.parse takes
    with _lock:
        return _parse(*given, **named)


ast.parse = _parse_alone

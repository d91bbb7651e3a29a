"""Waiting for a job or a search: for the commands and the demo."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from server.wire.jobs import JobStatus

View = dict[str, Any]
FINISHED = {status.value for status in JobStatus if status.finished}


def views_until_finished(
    look: Callable[[], View], every_seconds: float, max_seconds: float = math.inf
) -> Iterator[View]:
    """What `look` returns of a job or a search, as JSON, again and again; the finished one is the last.

    Raises TimeoutError if it is not finished within `max_seconds`.
    """
    deadline = time.monotonic() + max_seconds
    while time.monotonic() < deadline:
        view = look()
        yield view
        if view["status"] in FINISHED:
            return
        time.sleep(every_seconds)
    raise TimeoutError(f"not finished within {max_seconds:g} s")


def finished_view(look: Callable[[], View], every_seconds: float, max_seconds: float) -> View:
    """The view of a finished job or search. Raises TimeoutError if it is not finished within `max_seconds`."""
    *_, view = views_until_finished(look, every_seconds, max_seconds)
    return view

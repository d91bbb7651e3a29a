"""Bars for work that turns out to be long."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from elasticvit.progress import Report, Step, bars


@contextmanager
def patient(report: Report | None, after_s: float = 2.0) -> Iterator[Report]:
    """The report itself; or, where there is none, bars that appear once the work takes longer than `after_s`."""
    start, shown = time.monotonic(), list[Report]()

    def late(step: Step) -> None:
        if not shown and time.monotonic() - start > after_s:
            shown.append(stack.enter_context(bars()))
        for each in shown:
            each(step)

    with ExitStack() as stack:
        yield report or late

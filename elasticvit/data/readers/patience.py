"""Progress bars for work that takes long."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from elasticvit.progress import Report, Step, bars


@contextmanager
def patient(report: Report | None, after_s: float = 2.0) -> Iterator[Report]:
    """The given report; without one, progress bars that appear when the work takes longer than `after_s`."""
    start, shown = time.monotonic(), list[Report]()

    def late(step: Step) -> None:
        if not shown and time.monotonic() - start > after_s:
            shown.append(stack.enter_context(bars()))
        for show in shown:
            show(step)

    with ExitStack() as stack:
        yield report or late

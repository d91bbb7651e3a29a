"""What is done for each kind of compute job; the worker calls this with a claimed job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from server.errors import BadValue
from server.execution.calibrate import calibrate
from server.execution.search import search
from server.execution.stock import Stock
from server.execution.subnet import subnet
from server.task import Compute, Task
from server.wire import JobKind

KINDS: Mapping[JobKind, Callable[[Task, Stock], Mapping[str, Any]]] = {
    JobKind.SEARCH: search,
    JobKind.SUBNET: subnet,
    JobKind.CALIBRATE: calibrate,
}


class Executor:
    """Does compute jobs; one for a whole worker process, since it keeps supernets loaded."""

    def __init__(self, compute: Compute) -> None:
        self._stock = Stock(compute)

    def execute(self, task: Task) -> Mapping[str, Any]:
        """The job's result. Raises what stops it: ServerError, ElasticVitError, Stopped, Lost."""
        kind = JobKind(task.job.kind)
        if kind not in KINDS:
            raise BadValue(f"a worker cannot do a {kind.value} job")
        return KINDS[kind](task, self._stock)

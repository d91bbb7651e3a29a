"""What is done for each kind of compute job; the worker calls this with a claimed job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from server.compute.exporting.order import Exporter
from server.compute.jobs.calibrate import calibrate
from server.compute.jobs.convert import convert
from server.compute.jobs.search import search
from server.compute.jobs.subnet import subnet
from server.compute.jobs.tools import Tools
from server.compute.supernet_cache import SupernetCache
from server.compute.task import Compute, Task
from server.errors import BadValue
from server.wire import JobKind

KINDS: Mapping[JobKind, Callable[[Task, Tools], Mapping[str, Any]]] = {
    JobKind.SEARCH: search,
    JobKind.SUBNET: subnet,
    JobKind.CALIBRATE: calibrate,
    JobKind.CONVERT: convert,
}


class Executor:
    """Does compute jobs; one for a whole worker process, since it keeps what it read of supernets."""

    def __init__(self, compute: Compute, exporter: Exporter, converter: Exporter) -> None:
        self._tools = Tools(SupernetCache(compute), exporter, converter)

    def execute(self, task: Task) -> Mapping[str, Any]:
        """The job's result. Raises what stops it: ServerError, ElasticVitError, Stopped, Lost."""
        kind = JobKind(task.job.kind)
        if kind not in KINDS:
            raise BadValue(f"a worker cannot do a {kind.value} job")
        return KINDS[kind](task, self._tools)

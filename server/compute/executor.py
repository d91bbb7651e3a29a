"""Which function does each kind of compute job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from server.compute.jobs.calibrate import calibrate
from server.compute.jobs.convert import convert
from server.compute.jobs.search import search
from server.compute.jobs.subnet import subnet
from server.compute.jobs.tools import Tools
from server.compute.sessions import Wait
from server.compute.task import Task
from server.errors import BadValue
from server.wire import JobKind

KINDS: Mapping[JobKind, Callable[[Task, Tools], Mapping[str, Any] | Wait]] = {
    JobKind.SEARCH: search,
    JobKind.SUBNET: subnet,
    JobKind.CALIBRATE: calibrate,
    JobKind.CONVERT: convert,
}


def execute(task: Task, tools: Tools) -> Mapping[str, Any] | Wait:
    """The job's result, or what it waits for. Raises what ends it: ServerError, ElasticVitError, Stopped, Lost."""
    kind = JobKind(task.job.kind)
    if kind not in KINDS:
        raise BadValue(f"a worker cannot do a {kind.value} job")
    return KINDS[kind](task, tools)

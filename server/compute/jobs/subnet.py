"""A `subnet` job: one named architecture becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elasticvit.errors import SpaceError
from server.compute.exports import ProgressReporter, export_subnet
from server.compute.jobs.tools import Tools
from server.compute.task import Task
from server.errors import BadValue
from server.services import accuracy_drop, submissions


def subnet(task: Task, tools: Tools) -> Mapping[str, Any]:
    """The model's id and URLs. Raises BadValue, NotFound for an architecture outside the supernet's space or one whose
    precision costs more accuracy than allowed, and what an export raises."""
    payload = task.job.payload
    served = tools.supernets.get(payload["supernet"])
    with task.compute.database.read() as session:
        arch = submissions.find_arch(session, payload["arch"])
    precision = payload.get("precision", "float32")
    try:
        model = export_subnet(
            task.compute, tools.exporter, served, arch, "subnet", precision=precision, watch=ProgressReporter(task)
        )
    except SpaceError as error:
        raise BadValue(f"supernet '{served.name}' does not contain this architecture: {error}") from error
    # Jobs that were queued by older versions have no such bound.
    accuracy_drop.check(model, payload.get("max_accuracy_drop"))
    return submissions.subnet_result(model)

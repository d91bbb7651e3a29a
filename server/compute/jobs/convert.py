"""A `convert` job: a model in another format, from the weights that it was exported from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elasticvit.archs.arch import Arch
from server.compute.exporting.order import ConvertFile
from server.compute.exports import ProgressReporter
from server.compute.jobs.tools import Tools
from server.compute.task import Task
from server.errors import Conflict, DamagedFile, NotFound
from server.services import models


def convert(task: Task, tools: Tools) -> Mapping[str, Any]:
    """Hash and size of the file. Raises Conflict when the supernet has changed since the export or no longer gives this
    network, and what an export raises."""
    assert task.job.model_id is not None
    with task.compute.database.read() as session:
        model = models.get(session, task.job.model_id)
    format = task.job.payload["format"]
    supernet = tools.supernets.get(model.supernet).ref
    if model.manifest["supernet"]["sha256"] != supernet.sha256:
        raise Conflict(
            f"supernet '{supernet.name}' has other weights than when this model was made: "
            f"export its architecture again by POST /subnets, then ask for that model as {format}"
        )
    assert model.arch is not None
    try:
        tflite = task.compute.blobs.find(model.sha256)
    except (NotFound, DamagedFile) as error:
        raise Conflict(
            "the file of this model is gone or damaged: export it again by POST /subnets, then convert that"
        ) from error
    order = ConvertFile(supernet, Arch.from_json(model.arch), format, tflite, model.source != "calibration")
    data = tools.converter.run(order, ProgressReporter(task))
    task.look()
    file = models.store_bytes(task.compute.blobs, data)
    with task.compute.database.write() as session:
        models.add_converted(session, model.id, format, file, task.compute.clock())
    return {"format": format, "sha256": file.sha256, "size_bytes": file.size_bytes}

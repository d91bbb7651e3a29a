"""A `convert` job: a model of ours in another format, from the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elasticvit.archs.arch import Arch
from server.compute.exports import ProgressReporter, order_of
from server.compute.jobs.tools import Tools
from server.compute.task import Task
from server.errors import Conflict
from server.services import models
from server.services.models import Kept


def convert(task: Task, tools: Tools) -> Mapping[str, Any]:
    """The hash and size of the file. Raises Conflict where the supernet is another one now or does not give
    this model any more, and what exporting raises."""
    assert task.job.model_id is not None
    with task.compute.database.read() as session:
        model = models.get(session, task.job.model_id)
    wanted = task.job.payload["format"]
    served = tools.supernets.get(model.supernet)
    if model.manifest["supernet"]["sha256"] != served.sha256:
        raise Conflict(
            f"supernet '{served.name}' has other weights than when this model was made: "
            f"export its architecture anew by POST /subnets, then ask for that model as {wanted}"
        )
    assert model.arch is not None
    arch = Arch.from_json(model.arch)
    stored = task.compute.blobs.path(model.sha256)
    if not stored.is_file():
        raise Conflict("the file of this model is gone: export it anew by POST /subnets, then convert that")
    order = order_of(served, arch, wanted, recalibrate=model.source != "calibration", stored=stored)
    product = tools.converter.run(order, ProgressReporter(task))
    task.look()
    kept = Kept(task.compute.blobs.put(product.data), len(product.data))
    with task.compute.database.write() as session:
        models.add_other_file(session, model.id, wanted, kept, task.compute.clock())
    return {"format": wanted, "sha256": kept.sha256, "size_bytes": kept.size_bytes}

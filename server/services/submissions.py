"""Work ordered by POST /jobs and /subnets: checked against what is known, then queued."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlmodel import Session, select

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import Space
from elasticvit.errors import ArchError
from server.errors import BadValue, NotFound
from server.services import accuracy_drop, devices, jobs, models, supernets
from server.services.export_key import export_key
from server.services.storable import storable
from server.store import supernet_file
from server.store.blobs import Blobs
from server.store.tables import Job, Model, Supernet
from server.wire import Accepted, JobKind, JobRequest, JobStatus, MeasureProtocol, SubnetRequest

MEASURE_PRIORITY = 5
UNJUDGED = (
    "norms were not recalibrated and accuracy is not known: the supernet carries no calibration images and its "
    "training images are not at hand"
)


def submit(session: Session, request: JobRequest, now: datetime, max_attempts: int) -> Accepted:
    """Queue a `measure` or `calibrate` job. Raises NotFound, Conflict."""
    assert request.device is not None
    device = devices.get(session, request.device)
    if request.kind is JobKind.MEASURE:
        assert request.model_id is not None
        model = models.get(session, request.model_id)
        protocol = request.protocol or MeasureProtocol()
        return accepted(
            measure(session, model.id, device.name, protocol, now, priority=MEASURE_PRIORITY, max_attempts=max_attempts)
        )
    supernet = supernets.resolve(session, request.supernet)
    payload = {"supernet": supernet.name, "count": request.count}
    return accepted(
        jobs.enqueue(
            session, kind=JobKind.CALIBRATE, now=now, payload=payload, device=device.name, max_attempts=max_attempts
        )
    )


def measure(
    session: Session,
    model_id: str,
    device: str,
    protocol: MeasureProtocol,
    now: datetime,
    *,
    parent_id: str | None = None,
    key: str | None = None,
    priority: int = 0,
    max_attempts: int = 3,
) -> Job:
    """Queue one measuring session; with `parent_id` and `key` it is queued once."""
    return jobs.enqueue(
        session,
        kind=JobKind.MEASURE,
        now=now,
        payload={"protocol": protocol.model_dump(mode="json")},
        device=device,
        model_id=model_id,
        parent_id=parent_id,
        key=key,
        priority=priority,
        max_attempts=max_attempts,
    )


def subnet(
    session: Session, blobs: Blobs, folder: Path, request: SubnetRequest, now: datetime, max_attempts: int
) -> Accepted:
    """Queue the extraction and export of one arch; the payload is the request with the supernet's name. What was
    exported before is answered by a job that has succeeded already. `folder` holds the supernets."""
    supernet = supernets.resolve(session, request.supernet)
    payload = {
        "arch": storable(request.arch),
        "supernet": supernet.name,
        "precision": request.precision,
        "max_accuracy_drop": request.max_accuracy_drop,
    }
    if (model := _exported(session, blobs, folder, supernet, request)) is not None:
        return accepted(
            jobs.add_done(session, kind=JobKind.SUBNET, now=now, payload=payload, result=subnet_result(model))
        )
    return accepted(jobs.enqueue(session, kind=JobKind.SUBNET, now=now, payload=payload, max_attempts=max_attempts))


def subnet_result(model: Model) -> dict[str, Any]:
    """What a `subnet` job answers."""
    return {
        "model_id": model.id,
        "arch_id": model.arch_id,
        "precision": model.precision,
        "terms": model.manifest.get("terms"),
        "warning": None if model.accuracy.get("value") is not None else UNJUDGED,
        "url": f"/models/{model.id}",
        "download_url": f"/models/{model.id}/download",
    }


def find_arch(session: Session, wanted: dict[str, Any] | list[Any] | str) -> Arch:
    """An architecture from canonical JSON, the official 10-list, a published name, or the id of one seen before.

    Raises BadValue, NotFound.
    """
    try:
        if isinstance(wanted, dict):
            return Arch.from_json(wanted)
        if isinstance(wanted, list):
            return Arch.from_moonlit(wanted)
        if wanted in PUBLISHED:
            return PUBLISHED[wanted]
        if wanted.lstrip().startswith("{"):
            return Arch.from_json(wanted)
        known = session.exec(select(Model.arch).where(Model.arch_id == wanted).limit(1)).first()
        if known is not None:
            return Arch.from_json(known)
    except ArchError as error:
        raise BadValue(str(error)) from error
    raise NotFound(
        f"there is no architecture '{wanted}': give a published name ({', '.join(PUBLISHED)}), an id from GET /models, "
        "canonical JSON or the 10-list"
    )


def accepted(job: Job) -> Accepted:
    return Accepted(id=job.id, status=JobStatus(job.status), url=f"/jobs/{job.id}")


def _exported(session: Session, blobs: Blobs, folder: Path, supernet: Supernet, request: SubnetRequest) -> Model | None:
    """The model that this request would be answered with, where it is there. What is wrong with the request is left to
    the job to say."""
    if not isinstance(supernet.space, dict):
        return None
    try:
        arch = _space(json.dumps(supernet.space, sort_keys=True)).adopt(find_arch(session, request.arch))
    except (BadValue, NotFound, ArchError):
        return None
    table_sha256 = supernet_file.table_sha256(supernets.path(supernet, folder))
    key = export_key(arch, supernet.sha256, table_sha256, precision=request.precision, recalibrate=True)
    model = models.exported(session, blobs, key)
    # One that costs too much is refused by the job, like one that is made for it.
    return None if model is None or accuracy_drop.exceeds(model, request.max_accuracy_drop) else model


@lru_cache(maxsize=8)
def _space(text: str) -> Space:
    return Space.from_json(text)

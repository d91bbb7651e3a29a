"""Jobs submitted by POST /jobs and /subnets, or by other jobs: checked, then queued."""

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
from elasticvit.errors import ArchError, SpaceError
from server.errors import BadValue, NotFound
from server.services import accuracy_drop, devices, jobs, models, supernets
from server.services.export_key import export_key
from server.services.storable import storable
from server.store.blobs import Blobs
from server.store.tables import Job, Model, Supernet
from server.wire import Accepted, JobKind, JobRequest, JobStatus, MeasureProtocol, SubnetRequest

MEASURE_PRIORITY = 5
UNKNOWN_ACCURACY = (
    "norms were not recalibrated and accuracy is unknown: the supernet carries no calibration images and its "
    "training images are not on the server's machine"
)


def submit(session: Session, request: JobRequest, now: datetime, max_attempts: int) -> Accepted:
    """Queue a `measure` or `calibrate` job. Raises NotFound, Conflict, and BadValue for a device that cannot be
    calibrated."""
    assert request.device is not None
    device = devices.get(session, request.device)
    if request.kind is JobKind.MEASURE:
        assert request.model_id is not None
        model = models.get(session, request.model_id)
        protocol = request.protocol or MeasureProtocol()
        return accepted(
            measure(session, model.id, device.name, protocol, now, priority=MEASURE_PRIORITY, max_attempts=max_attempts)
        )
    if device.kind == "emulated":
        raise BadValue(
            f"device '{device.name}' is emulated, and its times never enter a latency predictor: calibrate a real one"
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
    """Queue one measuring session; with `parent_id` and `key` it is queued only once."""
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
    """Queue the extraction and export of one arch; the payload is the request with the supernet's name. A model that
    was exported before is returned by a job that has already succeeded. `folder` holds the supernets.

    Raises NotFound for an unknown supernet or arch, BadValue for an arch outside the supernet's space, Conflict while
    there is no supernet.
    """
    supernet = supernets.resolve(session, request.supernet)
    description = storable(request.arch)
    arch = _member(supernet, find_arch(session, description))
    payload = {
        "arch": description,
        "supernet": supernet.name,
        "precision": request.precision,
        "max_accuracy_drop": request.max_accuracy_drop,
    }
    if arch is not None and (model := _exported(session, blobs, folder, supernet, arch, request)) is not None:
        return accepted(
            jobs.add_done(session, kind=JobKind.SUBNET, now=now, payload=payload, result=subnet_result(model))
        )
    return accepted(jobs.enqueue(session, kind=JobKind.SUBNET, now=now, payload=payload, max_attempts=max_attempts))


def subnet_result(model: Model) -> dict[str, Any]:
    """The result of a `subnet` job."""
    return {
        "model_id": model.id,
        "arch_id": model.arch_id,
        "precision": model.precision,
        "terms": model.manifest.get("terms"),
        "warning": None if model.accuracy.get("value") is not None else UNKNOWN_ACCURACY,
        "url": f"/models/{model.id}",
        "download_url": models.download_url(model),
    }


def find_arch(session: Session, description: dict[str, Any] | list[Any] | str) -> Arch:
    """An architecture from canonical JSON, the official 10-list, a published name, or the id of a stored model's.

    Raises BadValue, NotFound.
    """
    try:
        if isinstance(description, dict):
            return Arch.from_json(description)
        if isinstance(description, list):
            return Arch.from_moonlit(description)
        if description in PUBLISHED:
            return PUBLISHED[description]
        if description.lstrip().startswith("{"):
            return Arch.from_json(description)
        stored = session.exec(select(Model.arch).where(Model.arch_id == description).limit(1)).first()
        if stored is not None:
            return Arch.from_json(stored)
    except ArchError as error:
        raise BadValue(str(error)) from error
    raise NotFound(
        f"there is no architecture '{description[:200]}': give a published name ({', '.join(PUBLISHED)}), an id from "
        "GET /models, canonical JSON or the 10-list"
    )


def accepted(job: Job) -> Accepted:
    return Accepted(id=job.id, status=JobStatus(job.status), url=f"/jobs/{job.id}")


def _member(supernet: Supernet, arch: Arch) -> Arch | None:
    """The arch with the supernet's head; None if only the name of the supernet's space is known, so that the job has
    to check it. Raises BadValue for an arch outside the space."""
    if not isinstance(supernet.space, dict):
        return None
    space = _space(json.dumps(supernet.space, sort_keys=True))
    try:
        member = space.adopt(arch)
        space.encode(member)
    except (ArchError, SpaceError) as error:
        raise BadValue(f"supernet '{supernet.name}' does not contain this architecture: {error}") from error
    return member


def _exported(
    session: Session, blobs: Blobs, folder: Path, supernet: Supernet, arch: Arch, request: SubnetRequest
) -> Model | None:
    """The stored model that answers this request, None if it has to be exported."""
    key = export_key(supernets.ref(supernet, folder), arch, precision=request.precision, recalibrate=True)
    model = models.exported(session, blobs, key)
    # A model that costs too much top-1 is refused by the job, as a new export would be.
    return None if model is None or accuracy_drop.exceeds(model, request.max_accuracy_drop) else model


@lru_cache(maxsize=8)
def _space(text: str) -> Space:
    return Space.from_json(text)

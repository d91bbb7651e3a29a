"""Jobs submitted by POST /jobs and /subnets, or by other jobs: checked, then queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import Session, select

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.errors import ArchError, SpaceError
from server.errors import BadValue, NotFound
from server.services import accuracy_drop, askers, devices, jobs, joining, models, quick_measure, spaces, supernets
from server.services.askers import Asker
from server.services.export_key import export_key
from server.services.quick_measure import MEASURE_PRIORITY
from server.services.storable import storable
from server.store.blobs import Blobs
from server.store.tables import Job, Model, Supernet
from server.wire import Accepted, JobKind, JobRequest, JobStatus, MeasureProtocol, SubnetRequest

# A reason may quote what was sent.
MAX_REASON_CHARS = 1000
UNKNOWN_ACCURACY = (
    "norms were not recalibrated and accuracy is unknown: the supernet carries no calibration images and its "
    "training images are not on the server's machine"
)


def submit(session: Session, request: JobRequest, now: datetime, max_attempts: int, asker: Asker) -> Accepted:
    """Queue a `measure` or `calibrate` job, or join an open one with the same request.

    Raises NotFound, Conflict, TooMany, and BadValue for a device that cannot be calibrated or a session that is too
    long.
    """
    assert request.device is not None
    plan = quick_measure.Plan.of(request)
    if plan is not None:
        wanted = quick_measure.Wanted(plan, now, max_attempts, asker)
        if (quick := quick_measure.queue(session, wanted)) is not None:
            return quick
    device = devices.get(session, request.device)
    if request.kind is JobKind.MEASURE:
        assert request.model_id is not None
        model = models.get(session, request.model_id)
        protocol = request.protocol or MeasureProtocol()
        askers.check_session(asker, protocol)
        work = DeviceWork(
            JobKind.MEASURE, device.name, {"protocol": protocol.model_dump(mode="json")}, model.id, MEASURE_PRIORITY
        )
        return accepted(queue_or_join(session, work, now, max_attempts, asker))
    if device.kind == "emulated":
        raise BadValue(
            f"device '{device.name}' is emulated, and its times never enter a latency predictor: calibrate a real one"
        )
    supernet = supernets.resolve(session, request.supernet)
    work = DeviceWork(JobKind.CALIBRATE, device.name, {"supernet": supernet.name, "count": request.count})
    return accepted(queue_or_join(session, work, now, max_attempts, asker))


@dataclass(frozen=True)
class DeviceWork:
    """A job that occupies a device. `request` is what is asked for; `payload` is None where it is the same."""

    kind: JobKind
    device: str
    request: Mapping[str, Any]
    model_id: str | None = None
    priority: int = 0
    payload: Mapping[str, Any] | None = None


def queue_or_join(
    session: Session, work: DeviceWork, now: datetime, max_attempts: int, asker: Asker, retry_of: str | None = None
) -> Job:
    """The owner's open job with this request, or a new one; that one is `same_as` another owner's open job with this
    request. Raises TooMany."""
    key = joining.key_of(work.kind, work.device, work.model_id, work.request)
    equal = joining.find_equal(session, work.kind, work.device, key, asker.owner)
    if equal is not None and equal.owner == asker.owner:
        return equal
    askers.check_room(session, asker)
    job = jobs.enqueue(
        session,
        kind=work.kind,
        now=now,
        payload=work.payload or work.request,
        device=work.device,
        model_id=work.model_id,
        key=key,
        priority=work.priority,
        max_attempts=max_attempts,
        owner=asker.owner,
        same_as=equal.id if equal else None,
        retry_of=retry_of,
    )
    if equal is not None:
        job.progress = joining.waiting_as(equal)
        session.add(job)
        session.flush()
    return job


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
    session: Session,
    blobs: Blobs,
    folder: Path,
    request: SubnetRequest,
    now: datetime,
    max_attempts: int,
    asker: Asker,
) -> Accepted:
    """Queue the extraction and export of one arch; the payload is the request with the supernet's name. A model that
    was exported before is returned by a job that has already succeeded. `folder` holds the supernets.

    Raises NotFound for an unknown supernet or arch, BadValue for an arch outside the supernet's space, TooMany, and
    Conflict while there is no supernet.
    """
    supernet = supernets.resolve(session, request.supernet)
    description = storable(request.arch)
    arch = _member(supernet, folder, find_arch(session, description))
    payload = {
        "arch": description,
        "supernet": supernet.name,
        "precision": request.precision,
        "max_accuracy_drop": request.max_accuracy_drop,
    }
    if arch is not None and (model := _exported(session, blobs, folder, supernet, arch, request)) is not None:
        result = subnet_result(model)
        return accepted(
            jobs.add_done(session, kind=JobKind.SUBNET, now=now, payload=payload, result=result, owner=asker.owner)
        )
    askers.check_room(session, asker)
    return accepted(
        jobs.enqueue(
            session, kind=JobKind.SUBNET, now=now, payload=payload, max_attempts=max_attempts, owner=asker.owner
        )
    )


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
        raise BadValue(str(error)[:MAX_REASON_CHARS]) from error
    raise NotFound(
        f"there is no architecture '{description[:200]}': give a published name ({', '.join(PUBLISHED)}), an id from "
        "GET /models, canonical JSON or the 10-list"
    )


def accepted(job: Job) -> Accepted:
    return Accepted(id=job.id, status=JobStatus(job.status), url=f"/jobs/{job.id}")


def _member(supernet: Supernet, folder: Path, arch: Arch) -> Arch | None:
    """The arch with the supernet's head; None where its space is not known here, so that the job has to check it.

    Raises BadValue for an arch outside the space.
    """
    space = spaces.of(supernet, folder)
    if space is None:
        return None
    try:
        member = space.adopt(arch)
        space.encode(member)
    except (ArchError, SpaceError) as error:
        reason = str(error)[:MAX_REASON_CHARS]
        raise BadValue(f"supernet '{supernet.name}' does not contain this architecture: {reason}") from error
    return member


def _exported(
    session: Session, blobs: Blobs, folder: Path, supernet: Supernet, arch: Arch, request: SubnetRequest
) -> Model | None:
    """The stored model that answers this request, None if it has to be exported."""
    key = export_key(supernets.ref(supernet, folder), arch, precision=request.precision, recalibrate=True)
    model = models.exported(session, blobs, key)
    # A model that costs too much top-1 is refused by the job, as a new export would be.
    return None if model is None or accuracy_drop.exceeds(model, request.max_accuracy_drop) else model

"""Models in other formats: made by a job at the first request, then stored."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from server.errors import Conflict, InfraError, NotFound
from server.services import jobs, models
from server.store.blobs import Blobs
from server.store.tables import Job, Model, ModelFile
from server.wire import JobKind, JobStatus, OtherFormat

PRIORITY = 5


def find(session: Session, blobs: Blobs, model: Model, format: OtherFormat) -> ModelFile | None:
    """The model's file in this format, None until it was made; a damaged one is made again."""
    file = models.converted_file(session, model.id, format)
    return file if file is not None and blobs.is_whole(file.sha256) else None


def enqueue(session: Session, model: Model, format: OtherFormat, now: datetime) -> Job:
    """The open conversion job, queued if there is none. Raises NotFound for a model that cannot be converted."""
    if model.source in ("upload", "anchor") or model.supernet is None:
        raise NotFound(f"model '{model.id}' comes from no supernet and has one file only: ask for format=tflite")
    if model.precision != "float32":
        raise NotFound(
            f"model '{model.id}' is {model.precision}, and {format} files are float32: "
            "POST /subnets for the same architecture in float32, then ask for that model"
        )
    same = jobs.find_open(session, JobKind.CONVERT, model.id, format)
    # One attempt: a client waits for it, and can repeat its request.
    return same or jobs.enqueue(
        session,
        kind=JobKind.CONVERT,
        now=now,
        payload={"format": format},
        model_id=model.id,
        key=format,
        priority=PRIORITY,
        max_attempts=1,
    )


def finished(session: Session, job_id: str) -> bool:
    """Whether the job has made the file. Raises Conflict or InfraError when it was cancelled or failed."""
    job = jobs.get(session, job_id)
    if job.status == JobStatus.CANCELLED:
        raise Conflict(f"the conversion, job '{job_id}', was cancelled: ask again to start another")
    if (error := jobs.error(job)) is not None:
        raise (Conflict if error.kind == "user" else InfraError)(error.detail)
    return job.status == JobStatus.SUCCEEDED

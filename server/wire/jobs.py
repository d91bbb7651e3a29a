"""Jobs: requests, states, progress and results."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from server.wire.base import MAX_WHOLE, Answer, Failure, Name, Progress, Real, Request, UtcTime, Whole


class JobStatus(StrEnum):
    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobKind(StrEnum):
    """`measure` is done by agents; the others by compute workers."""

    MEASURE = "measure"
    SEARCH = "search"
    SUBNET = "subnet"
    CALIBRATE = "calibrate"
    CONVERT = "convert"


class Accepted(Answer):
    """202: the work is queued; poll `url`."""

    id: str
    status: JobStatus
    url: str


class MeasureProtocol(Request):
    """The plan of a measuring session: `rounds` times the anchor, then the model, each at least `runs` and `min_secs`.

    `max_secs` bounds one benchmark process. `cpu_mask` is a bit per core; None leaves the choice to the agent.
    """

    rounds: Annotated[Whole, Field(ge=1, le=50)] = 5
    runs: Annotated[Whole, Field(ge=1, le=10_000)] = 30
    min_secs: Annotated[Real, Field(ge=0, le=60)] = 0.1
    max_secs: Annotated[Real, Field(ge=0.001, le=600)] = 30.0
    threads: Annotated[Whole, Field(ge=1, le=64)] = 1
    profile: Annotated[bool, Field(strict=True)] = False
    cpu_mask: Annotated[Whole, Field(ge=1, le=MAX_WHOLE)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> MeasureProtocol:
        if self.max_secs < self.min_secs:
            raise ValueError("max_secs must not be below min_secs")
        return self


class JobRequest(Request):
    """Queue work: `measure` needs `model_id` and `device`; `calibrate` needs `device`.

    `count` is how many sub-networks `calibrate` measures, None for the server's default.
    """

    kind: JobKind
    device: Name | None = None
    model_id: Name | None = None
    protocol: MeasureProtocol | None = None
    supernet: Name | None = None
    count: Annotated[Whole, Field(ge=4, le=500)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> JobRequest:
        if self.kind is JobKind.CONVERT:
            raise ValueError("a convert job is made by GET /models/{id}/download?format=onnx or pt2")
        if self.kind in (JobKind.SEARCH, JobKind.SUBNET):
            path = "/search" if self.kind is JobKind.SEARCH else "/subnets"
            raise ValueError(f"a {self.kind.value} job is made by POST {path}")
        if self.device is None:
            raise ValueError(f'a {self.kind.value} job needs "device"')
        if self.kind is JobKind.MEASURE and self.model_id is None:
            raise ValueError('a measure job needs "model_id"')
        return self


class JobView(Answer):
    """A job as it is now. `attempts` counts those begun; `result` is set once it succeeded; lists leave it out.

    `error` says why it failed, or why it was cancelled with its parent. `owner` is the name of the token that asked for
    it, None for the service's own work. A job with `wait_until` is parked: it waits for other jobs until then, and
    `progress.detail` says for what. A queued job is not tried before `not_before`. A job that is `same_as` another ends
    with that one; one that is `retry_of` another does the same work again.
    """

    id: str
    kind: JobKind
    status: JobStatus
    progress: Progress | None
    error: Failure | None
    result: dict[str, Any] | None
    device: str | None
    model_id: str | None
    parent_id: str | None
    attempts: int
    created_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None
    url: str
    owner: str | None = None
    same_as: str | None = None
    retry_of: str | None = None
    not_before: UtcTime | None = None
    wait_until: UtcTime | None = None

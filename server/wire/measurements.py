"""Measuring sessions: raw samples as agents report them, and their figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from server.wire.base import (
    MAX_COUNT,
    MAX_DURATION_MS,
    MAX_SAMPLES,
    MAX_WHOLE,
    Answer,
    Failure,
    Request,
    UtcTime,
    Whole,
)
from server.wire.devices import DeviceDescription
from server.wire.jobs import JobStatus
from server.wire.text import Conditions, Plain, Text

MAX_LOG_CHARS = 64_000


SampleNs = Annotated[int, Field(gt=0, le=MAX_WHOLE)]
Duration = Annotated[float, Field(ge=0, le=MAX_DURATION_MS)]
"""In ms or, of operators, in µs."""


class BenchRun(Request):
    """One benchmark process on one file: raw samples in ns; `conditions` are clocks, temperatures, affinity."""

    samples_ns: Annotated[list[SampleNs], Field(min_length=1, max_length=MAX_SAMPLES)]
    init_ms: Duration | None = None
    first_ms: Duration | None = None
    conditions: Conditions = Field(default_factory=dict)


class Round(Request):
    """One interleaved round: the anchor, then the model."""

    model: BenchRun
    anchor: BenchRun | None = None


class OpTime(Request):
    """One operator of an operator profile, in execution order; `avg_us` and `median_us` are per inference.

    The median is what predictors use: one interrupted run spoils the average of a short operator.
    """

    node: Annotated[int, Field(ge=-1, le=MAX_COUNT)]
    tag: Text
    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    total_us: Duration
    avg_us: Duration
    median_us: Duration | None = None


class MeasurementSession(Request):
    """Everything one session measured, with the description of its device at that time."""

    device: DeviceDescription
    rounds: Annotated[list[Round], Field(min_length=1, max_length=50)]
    profile: Annotated[list[OpTime], Field(max_length=20_000)] | None = None
    conditions: Conditions = Field(default_factory=dict)
    peak_rss_kb: Annotated[int, Field(ge=0, le=MAX_WHOLE)] | None = None
    fully_accelerated: bool | None = None
    init_ms: Duration | None = None
    first_ms: Duration | None = None
    emulated: bool = False


class Report(Request):
    """POST /leases/{id}/report, once; sending it again is harmless. A stale one gets 409 and may be dropped.

    After `failed` with kind `user` the job is over; with `device` or `infra` it is tried again until attempts run out.
    """

    lease_id: Text
    attempt: Annotated[Whole, Field(ge=1, le=MAX_COUNT)]
    outcome: Literal["measured", "failed"]
    session: MeasurementSession | None = None
    failure: Failure | None = None
    log: Annotated[str, Plain, StringConstraints(max_length=MAX_LOG_CHARS)] = ""

    @model_validator(mode="after")
    def _matching(self) -> Report:
        if (self.outcome == "measured") != (self.session is not None):
            raise ValueError('"session" belongs to the outcome "measured", and only to it')
        if (self.outcome == "failed") != (self.failure is not None):
            raise ValueError('"failure" belongs to the outcome "failed", and only to it')
        return self


class Reported(Answer):
    """The effect of a report; `status` is the job's, `queued` when it will be tried again."""

    job_id: str
    status: JobStatus
    measurement_id: str | None


class MeasurementView(Answer):
    """A stored session. `*_raw_ms` as timed, the others by the anchor, None without a reference.

    `stable` is that of the p50. The p90 has an interval (95 %) and a stability of its own: None in sessions of older
    versions until a calibration judges them. With too few samples, no p90 is reported.
    """

    id: str
    job_id: str
    model_id: str
    device: str
    profile_id: str
    p50_raw_ms: float
    p90_raw_ms: float | None
    anchor_p50_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    cv: float | None
    anchor_drift: float | None
    stable: bool
    unstable_reason: str | None
    p90_stable: bool | None = None
    p90_lower_ms: float | None = None
    p90_upper_ms: float | None = None
    p90_lower_raw_ms: float | None = None
    p90_upper_raw_ms: float | None = None
    p90_unstable_reason: str | None = None
    emulated: bool
    samples: int
    created_at: UtcTime


class MeasurementDetail(MeasurementView):
    """With the raw session as it was reported, and its operator profile in `session.profile`."""

    session: MeasurementSession

"""Searches: the request, the models that answer it, the frontier."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from server.wire.base import (
    MAX_WHOLE,
    Answer,
    BudgetMs,
    Confidence,
    Failure,
    Name,
    PrecisionName,
    Progress,
    Real,
    Request,
    Statistic,
    UtcTime,
    Whole,
)
from server.wire.jobs import JobStatus
from server.wire.models import Accuracy
from server.wire.predictors import LatencyAnswer, PredictorRef

# A petabyte: more than any file or memory.
MAX_MB = 1e9


class Budget(Request):
    """The bound on the upper end of the predicted latency interval."""

    latency_ms: BudgetMs


class Target(Request):
    """One device of a fleet; `weight` is its weight in the trade-off."""

    device: Name
    budget: Budget
    weight: Annotated[Real, Field(gt=0, le=1e6)] = 1.0


class SearchRequest(Request):
    """Ask for models that meet a budget: either `device` and `budget`, or `devices`.

    `max_accuracy_drop` is a fraction of top-1 (0.02 is two points) below the best sub-network of the supernet; it also
    bounds what `precision` costs a network, where that is known. Latencies are predicted for float32 networks, also
    with another `precision`; with `verify` the exported file itself is measured. `max_size_mb` bounds the float32 file.
    `max_peak_memory_mb` and fleets of several devices are not supported yet and are refused with 422.
    """

    device: Name | None = None
    budget: Budget | None = None
    devices: Annotated[list[Target], Field(min_length=1, max_length=50)] | None = None
    confidence: Confidence = 0.9
    statistic: Statistic = "p50"
    count: Annotated[Whole, Field(ge=1, le=50)] = 1
    verify: Annotated[bool, Field(strict=True)] = False
    precision: PrecisionName = "float32"
    supernet: Name | None = None
    seed: Annotated[Whole, Field(ge=0, le=MAX_WHOLE)] | None = None
    max_macs: Annotated[Whole, Field(gt=0, le=MAX_WHOLE)] | None = None
    max_size_mb: Annotated[Real, Field(gt=0, le=MAX_MB)] | None = None
    max_peak_memory_mb: Annotated[Real, Field(gt=0, le=MAX_MB)] | None = None
    max_accuracy_drop: Annotated[Real, Field(ge=0, le=1)] | None = None
    allow_uncalibrated: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _one_or_fleet(self) -> SearchRequest:
        if self.devices is None:
            if self.device is None or self.budget is None:
                raise ValueError('give "device" and "budget": {"latency_ms": …}, or "devices"')
        elif self.device is not None or self.budget is not None:
            raise ValueError('give either "device" and "budget" or "devices", not both')
        else:
            names = [target.device for target in self.devices]
            if len(set(names)) < len(names):
                raise ValueError('"devices" names a device twice')
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """The devices in the form of a fleet; one entry for `device` and `budget`."""
        if self.devices is not None:
            return tuple(self.devices)
        assert self.device is not None and self.budget is not None
        return (Target(device=self.device, budget=self.budget),)


class Candidate(Answer):
    """An architecture with its costs, accuracy and latencies. `arch` is its canonical JSON object."""

    arch: dict[str, Any]
    arch_id: str
    macs: int
    params: int
    accuracy: Accuracy
    latency: dict[str, LatencyAnswer]


class SearchModel(Candidate):
    """A candidate that was extracted and exported, with its terms of use. `accuracy` is that of the network in float32;
    the manifest's `top1_change` is what `precision` changes."""

    precision: str = "float32"
    terms: str | None = None
    model_id: str
    size_bytes: int
    download_url: str


class SearchResult(Answer):
    """`models` best first; `frontier` the trade-off between latency and accuracy, fastest first.

    `terms` are the supernet's terms of use, None without any; `note` is a remark on the figures.
    """

    models: list[SearchModel]
    frontier: list[Candidate]
    predictor: PredictorRef | None
    supernet: str
    terms: str | None = None
    note: str | None = None


class SearchView(Answer):
    """A search as it is now; lists leave out `result`. `owner` is the name of the token that asked for it, `job_id` the
    job that does it."""

    id: str
    status: JobStatus
    progress: Progress | None
    error: Failure | None
    result: SearchResult | None
    request: SearchRequest
    url: str
    created_at: UtcTime
    finished_at: UtcTime | None
    job_id: str | None = None
    owner: str | None = None

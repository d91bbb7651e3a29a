"""What travels over HTTP: between clients, agents and this server. Pydantic only, so an agent installs nothing else.

Requests refuse unknown fields; answers ignore them, so that an older agent can talk to a newer server.
Latencies end in `_ms`; raw samples are nanoseconds. Times are UTC, ISO 8601. URLs are paths on the same server.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_LATENCY_MS = 60_000.0
MAX_SAMPLES = 100_000


class Request(BaseModel):
    """Base of what a client or agent sends; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Base of what the server sends; a reader ignores fields it does not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Shared(BaseModel):
    """Base of values that travel both ways; as strict as a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _without_nul(value: str) -> str:
    return value.replace("\0", "")  # what a device prints may hold any byte; databases take all but this one


T = TypeVar("T")
UtcTime = Annotated[datetime, AfterValidator(_as_utc)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(max_length=500)]
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
BudgetMs = Annotated[Real, Field(gt=0, le=MAX_LATENCY_MS)]
Confidence = Annotated[Real, Field(ge=0.5, le=0.99)]
Statistic = Literal["p50", "p90"]
PrecisionName = Literal["float32", "float16", "dynamic_int8", "int8"]
DeviceKind = Literal["host", "phone", "emulated"]
FailureKind = Literal["user", "device", "infra"]


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


class DeviceState(StrEnum):
    OFFLINE = "offline"
    IDLE = "idle"
    BUSY = "busy"


class Role(StrEnum):
    """What a token may do: `viewer` reads, `user` creates work, `agent` speaks the agents' protocol, `admin` all."""

    ADMIN = "admin"
    USER = "user"
    AGENT = "agent"
    VIEWER = "viewer"


# --- common answers -------------------------------------------------------------------------------------------------


class Accepted(Answer):
    """202: the work is queued; poll `url`."""

    id: str
    status: JobStatus
    url: str


class Progress(Shared):
    """How far a job is: `done` of `total` in `stage`; `total` is None while it is not known."""

    stage: Text
    done: int = Field(default=0, ge=0)
    total: int | None = Field(default=None, ge=0)
    detail: Text | None = None


class Failure(Shared):
    """Why a job failed: whose doing it is, and a sentence that says what to do."""

    kind: FailureKind
    detail: Annotated[str, StringConstraints(min_length=1, max_length=4000)]


class Page(Answer, Generic[T]):
    """One page of a list; ask for the next with `page_token`, None on the last page."""

    items: list[T]
    next_page_token: str | None = None


class Problem(BaseModel):
    """RFC 9457 `application/problem+json`, with our `kind`; extra members carry figures such as `smallest_ms`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    kind: FailureKind
    detail: str


class Health(Answer):
    status: Literal["ok"] = "ok"
    version: str


class Readiness(Answer):
    ready: bool
    waiting_for: list[str]


# --- search ---------------------------------------------------------------------------------------------------------


class Budget(Request):
    """The bound on the upper end of the predicted latency interval."""

    latency_ms: BudgetMs


class Target(Request):
    """One device of a fleet; `weight` is its share in the trade-off."""

    device: Name
    budget: Budget
    weight: Annotated[Real, Field(gt=0, le=1e6)] = 1.0


class SearchRequest(Request):
    """Ask for models that meet a budget: either `device` and `budget`, or `devices`.

    `max_accuracy_drop` is a fraction of top-1 (0.02 = two points) below the best sub-network of the supernet; it also
    bounds what `precision` may cost a network, where that is known. Latencies are predicted for float32 networks, also
    where another `precision` is asked for; with `verify` the very file is measured. `max_size_mb` bounds the float32
    file.
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
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] | None = None
    max_macs: Annotated[Whole, Field(gt=0, lt=2**63)] | None = None
    max_size_mb: Annotated[Real, Field(gt=0)] | None = None
    max_peak_memory_mb: Annotated[Real, Field(gt=0)] | None = None
    max_accuracy_drop: Annotated[Real, Field(ge=0, le=1)] | None = None
    allow_uncalibrated: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _one_or_fleet(self) -> SearchRequest:
        if self.devices is None:
            if self.device is None or self.budget is None:
                raise ValueError('say where and how fast: "device" and "budget": {"latency_ms": …}, or "devices"')
        elif self.device is not None or self.budget is not None:
            raise ValueError('give either "device" and "budget" or "devices", not both')
        else:
            names = [target.device for target in self.devices]
            if len(set(names)) < len(names):
                raise ValueError('"devices" names a device twice')
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """The devices asked for, in the fleet's form; one entry for `device` and `budget`."""
        if self.devices is not None:
            return tuple(self.devices)
        assert self.device is not None and self.budget is not None
        return (Target(device=self.device, budget=self.budget),)


class Accuracy(Answer):
    """Top-1 as a fraction in 0..1; `source` is `measured`, `predicted` or None when nothing is known.

    Predicted ones come from the supernet's table of measured sub-networks, where the images are not at hand.
    """

    value: float | None = None
    source: Literal["measured", "predicted"] | None = None


class LatencyAnswer(Answer):
    """Latency on one device. All but `measured_raw_ms` are normalised by the anchor.

    `verified` is True only when a stable measurement of this very file lies within the budget.
    """

    predicted_ms: float | None = None
    lower_ms: float | None = None
    upper_ms: float | None = None
    confidence: float | None = None
    measured_ms: float | None = None
    measured_raw_ms: float | None = None
    verified: bool = False
    statistic: Statistic = "p50"
    calibrated: bool = True


class Candidate(Answer):
    """An architecture with what is known of it. `arch` is its canonical JSON object."""

    arch: dict[str, Any]
    arch_id: str
    macs: int
    params: int
    accuracy: Accuracy
    latency: dict[str, LatencyAnswer]


class SearchModel(Candidate):
    """A candidate that was extracted and exported; `terms` are the conditions of its use. `accuracy` is that of the
    network in float32, the manifest's `top1_change` what `precision` changes."""

    precision: str = "float32"
    terms: str | None = None
    model_id: str
    size_bytes: int
    download_url: str


class PredictorRef(Answer):
    """The predictor version an answer rests on."""

    id: str
    device: str
    version: int


class SearchResult(Answer):
    """`models` best first; `frontier` the whole trade-off that was found, fastest first.

    `terms` are the conditions under which models of this supernet may be used, None where it states none; `note` is
    what else to know of the figures.
    """

    models: list[SearchModel]
    frontier: list[Candidate]
    predictor: PredictorRef | None
    supernet: str
    terms: str | None = None
    note: str | None = None


class SearchView(Answer):
    id: str
    status: JobStatus
    progress: Progress | None
    error: Failure | None
    result: SearchResult | None
    request: SearchRequest
    url: str
    created_at: UtcTime
    finished_at: UtcTime | None


# --- sub-networks, models, supernets --------------------------------------------------------------------------------


class SubnetRequest(Request):
    """Extract and export one architecture: canonical JSON, a published name, an id, or the official 10-list.

    `max_accuracy_drop` is the most top-1, as a fraction, that `precision` may cost the network, where that is known.
    """

    arch: dict[str, Any] | list[Any] | Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
    supernet: Name | None = None
    precision: PrecisionName = "float32"
    max_accuracy_drop: Annotated[Real, Field(ge=0, le=1)] = 0.01


class ModelView(Answer):
    """A deployable file. `source` tells where it comes from; an uploaded file has no arch.

    `terms` are the conditions of its use that its supernet passes on.
    """

    id: str
    name: str | None
    source: Literal["search", "subnet", "calibration", "anchor", "upload"]
    sha256: str
    size_bytes: int
    precision: str | None
    arch: dict[str, Any] | None
    arch_id: str | None
    macs: int | None
    params: int | None
    accuracy: Accuracy
    supernet: str | None
    terms: str | None = None
    manifest: dict[str, Any]
    created_at: UtcTime
    url: str
    download_url: str


class SupernetAdd(Request):
    """Serve a supernet file that lies on the server's machine, with its table NAME.accuracy.jsonl beside it.

    Both are copied to the server's home folder. `name` is by default the file's, without its ending.
    """

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    name: Name | None = None


class SupernetView(Answer):
    """A supernet file that this server knows; `space` is the space's name or canonical JSON object.

    `terms` are the conditions of use that travel with every model of it.
    """

    name: str
    sha256: str
    size_bytes: int
    space: dict[str, Any] | str | None
    classes: int | None
    terms: str | None = None
    provenance: dict[str, Any]
    is_default: bool
    created_at: UtcTime


# --- jobs -----------------------------------------------------------------------------------------------------------


class MeasureProtocol(Request):
    """How one measuring session goes: `rounds` times the anchor, then the model, each at least `runs` and `min_secs`.

    `max_secs` bounds one benchmark process. `cpu_mask` is a bit per core; None leaves the choice to the agent.
    """

    rounds: Annotated[Whole, Field(ge=1, le=50)] = 5
    runs: Annotated[Whole, Field(ge=1, le=10_000)] = 30
    min_secs: Annotated[Real, Field(ge=0, le=60)] = 0.1
    max_secs: Annotated[Real, Field(gt=0, le=600)] = 30.0
    threads: Annotated[Whole, Field(ge=1, le=64)] = 1
    profile: Annotated[bool, Field(strict=True)] = False
    cpu_mask: Annotated[Whole, Field(ge=1, lt=2**63)] | None = None

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
    """A job as it is now. `attempts` counts the tries begun; `result` is there once it succeeded."""

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


# --- devices and agents ---------------------------------------------------------------------------------------------


class ProfileKey(Shared):
    """The key under which latencies may be compared; measurements of two keys are never mixed."""

    kind: DeviceKind
    model: str
    soc: str
    os_build: str
    abi: str
    runtime_version: str
    bench_build: str
    threads: int
    cpu_mask: int | None

    @property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class DeviceDescription(Shared):
    """What a device is. `name` is the slug that requests use; `serial` stays between agent and server.

    `model` is the maker's name of the phone, or the host's CPU; `bench_build` the hash of the android_bench binary.
    """

    name: Name
    kind: DeviceKind
    serial: Text
    model: Text
    soc: Text
    os_build: Text
    abi: Text
    runtime_version: Text
    bench_build: Text
    properties: dict[str, str] = Field(default_factory=dict, max_length=500)

    def profile(self, threads: int = 1, cpu_mask: int | None = None) -> ProfileKey:
        """The profile of this device under `threads` and `cpu_mask`."""
        return ProfileKey(
            kind=self.kind,
            model=self.model,
            soc=self.soc,
            os_build=self.os_build,
            abi=self.abi,
            runtime_version=self.runtime_version,
            bench_build=self.bench_build,
            threads=threads,
            cpu_mask=cpu_mask,
        )


class DeviceView(Answer):
    """A device as it is now; `predictor` is the newest for its profile, None while there is none."""

    name: str
    kind: DeviceKind
    state: DeviceState
    agent: str | None
    model: str
    soc: str
    os_build: str
    abi: str
    runtime_version: str
    bench_build: str
    properties: dict[str, str]
    profile_id: str
    predictor: PredictorRef | None
    last_seen_at: UtcTime


class ProfileView(Answer):
    """A device profile; `anchor_reference_ms` is fixed with its first predictor, None before."""

    id: str
    key: ProfileKey
    anchor_reference_ms: float | None
    measurements: int
    created_at: UtcTime


class AgentRegister(Request):
    """An agent says who it is and what hangs on it. The same name from the same token is the same agent, restarted."""

    name: Name
    version: Text
    devices: Annotated[list[DeviceDescription], Field(max_length=500)]


class AgentRegistered(Answer):
    agent_id: str
    heartbeat_seconds: float
    poll_seconds: float
    lease_seconds: float
    server_time: UtcTime


class DeviceBeat(Request):
    """One device in a heartbeat; `conditions` are readings such as temperature or battery."""

    name: Name
    state: DeviceState
    conditions: dict[str, Any] = Field(default_factory=dict)


class Heartbeat(Request):
    """Sent every `heartbeat_seconds`. A 404 means: the server does not know this agent, register again."""

    agent_id: Text
    devices: Annotated[list[DeviceBeat], Field(max_length=500)]


class HeartbeatReply(Answer):
    heartbeat_seconds: float
    poll_seconds: float
    lease_seconds: float
    server_time: UtcTime


class BlobRef(Answer):
    """A file by content; GET `url` (a path on the same server, bearer token as always) gives exactly these bytes."""

    sha256: Sha256
    size_bytes: int
    url: str


class LeaseRequest(Request):
    """POST /leases with the devices that are idle: answered 200 with a `Lease`, or 204, no body, when nothing waits."""

    agent_id: Text
    devices: Annotated[list[Name], Field(max_length=500)]


class Lease(Answer):
    """The right to do a job until `expires_at`; renew well before. `anchor` is None while the server has none."""

    lease_id: str
    attempt: int
    job_id: str
    expires_at: UtcTime
    kind: Literal[JobKind.MEASURE]
    device: str
    model: BlobRef
    anchor: BlobRef | None
    protocol: MeasureProtocol


class LeaseRenewal(Request):
    """POST /leases/{id}/renew. 409 means the lease is gone (expired and taken, or the job cancelled): drop the work."""

    attempt: Annotated[Whole, Field(ge=1)]
    progress: Progress | None = None


class LeaseRenewed(Answer):
    lease_id: str
    attempt: int
    expires_at: UtcTime


# --- measurements ---------------------------------------------------------------------------------------------------


class BenchRun(Request):
    """One benchmark process on one file: raw samples in ns; `conditions` are clocks, temperatures, affinity."""

    samples_ns: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1, max_length=MAX_SAMPLES)]
    init_ms: float | None = Field(default=None, ge=0)
    first_ms: float | None = Field(default=None, ge=0)
    conditions: dict[str, Any] = Field(default_factory=dict)


class Round(Request):
    """One interleaved round: the anchor, then the model."""

    model: BenchRun
    anchor: BenchRun | None = None


class OpTime(Request):
    """Time of one operator from the profile run, in execution order; `avg_us` and `median_us` are per inference.

    The median is what predictors use: one interrupted run spoils the average of a short operator.
    """

    node: Annotated[int, Field(ge=-1)]
    tag: Text
    count: Annotated[int, Field(ge=0)]
    total_us: Annotated[float, Field(ge=0)]
    avg_us: Annotated[float, Field(ge=0)]
    median_us: Annotated[float, Field(ge=0)] | None = None


class MeasurementSession(Request):
    """All that one session measured, with the device as it described itself at that time."""

    device: DeviceDescription
    rounds: Annotated[list[Round], Field(min_length=1, max_length=50)]
    profile: Annotated[list[OpTime], Field(max_length=20_000)] | None = None
    conditions: dict[str, Any] = Field(default_factory=dict)
    peak_rss_kb: int | None = Field(default=None, ge=0)
    fully_accelerated: bool | None = None
    init_ms: float | None = Field(default=None, ge=0)
    first_ms: float | None = Field(default=None, ge=0)
    emulated: bool = False


class Report(Request):
    """POST /leases/{id}/report, once; sending it again is harmless. A stale one gets 409 and may be dropped.

    After `failed` with kind `user` the job is over; with `device` or `infra` it is tried again until attempts run out.
    """

    lease_id: Text
    attempt: Annotated[Whole, Field(ge=1)]
    outcome: Literal["measured", "failed"]
    session: MeasurementSession | None = None
    failure: Failure | None = None
    log: Annotated[str, StringConstraints(max_length=64_000), AfterValidator(_without_nul)] = ""

    @model_validator(mode="after")
    def _matching(self) -> Report:
        if (self.outcome == "measured") != (self.session is not None):
            raise ValueError('"session" belongs to the outcome "measured", and only to it')
        if (self.outcome == "failed") != (self.failure is not None):
            raise ValueError('"failure" belongs to the outcome "failed", and only to it')
        return self


class Reported(Answer):
    """What became of the report; `status` is the job's, `queued` when it will be tried again."""

    job_id: str
    status: JobStatus
    measurement_id: str | None


class MeasurementView(Answer):
    """A stored session. `*_raw_ms` as timed; `p50_ms` and `p90_ms` by the anchor, None without a reference."""

    id: str
    job_id: str
    model_id: str
    device: str
    profile_id: str
    p50_raw_ms: float
    p90_raw_ms: float
    anchor_p50_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    cv: float | None
    anchor_drift: float | None
    stable: bool
    unstable_reason: str | None
    emulated: bool
    samples: int
    created_at: UtcTime


class MeasurementDetail(MeasurementView):
    """With the raw session as it was reported."""

    session: MeasurementSession


class PredictorView(Answer):
    """A predictor version of one profile; `smallest` and `largest` are the predicted ends of the reachable range."""

    id: str
    version: int
    device: str
    profile_id: str
    supernet: str
    anchor_reference_ms: float
    smallest: dict[str, Any]
    largest: dict[str, Any]
    summary: dict[str, Any]
    created_at: UtcTime


# --- tokens ---------------------------------------------------------------------------------------------------------


class TokenCreate(Request):
    name: Name
    role: Role


class TokenView(Answer):
    id: str
    name: str
    role: Role
    created_at: UtcTime
    revoked_at: UtcTime | None


class TokenCreated(TokenView):
    """The only answer that ever shows the secret."""

    token: str

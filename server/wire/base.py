"""The bodies of HTTP requests and answers, for clients, agents and this server. Pydantic only: agents need no more.

Requests refuse unknown fields; answers ignore them, so that an older agent can talk to a newer server.
Latencies end in `_ms`; raw samples are nanoseconds. Times are UTC, ISO 8601. URLs are paths on the same server.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from server.wire.text import Plain, Text, plain_value

MAX_LATENCY_MS = 60_000.0
MAX_SAMPLES = 100_000
MAX_DETAIL_CHARS = 4000
MAX_WAIT_SECONDS = 30.0
"""How long the server holds a request that waits."""
MAX_NAME_CHARS = 63
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$"
# Of counts in integer columns, which are 32 bits wide on PostgreSQL, and of numbers in JSON columns.
MAX_COUNT = 2**31 - 1
MAX_WHOLE = 2**63 - 1
# About three years: nothing that is measured takes longer.
MAX_DURATION_MS = 1e11


class Request(BaseModel):
    """Base of what a client or agent sends; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Base of what the server sends; a reader ignores fields it does not know yet."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Shared(BaseModel):
    """Base of values in both requests and answers; as strict as a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


T = TypeVar("T")
UtcTime = Annotated[datetime, AfterValidator(_as_utc)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=MAX_NAME_CHARS)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
BudgetMs = Annotated[Real, Field(gt=0, le=MAX_LATENCY_MS)]
Confidence = Annotated[Real, Field(ge=0.5, le=0.99)]
Statistic = Literal["p50", "p90"]
PrecisionName = Literal["float32", "float16", "dynamic_int8", "int8"]
DeviceKind = Literal["host", "phone", "emulated"]
FailureKind = Literal["user", "device", "infra"]


class Progress(Shared):
    """How far a job is: `done` of `total` in `stage`; `total` is None while it is not known."""

    stage: Text
    done: Annotated[int, Field(ge=0, le=MAX_WHOLE)] = 0
    total: Annotated[int, Field(ge=0, le=MAX_WHOLE)] | None = None
    detail: Text | None = None


class Failure(Shared):
    """Why a job failed: who can fix it, and a sentence that says what to do."""

    kind: FailureKind
    detail: Annotated[str, Plain, StringConstraints(min_length=1, max_length=MAX_DETAIL_CHARS)]


class Page(Answer, Generic[T]):
    """One page of a list; ask for the next with `page_token`, None on the last page."""

    items: list[T]
    next_page_token: str | None = None


class Problem(BaseModel):
    """RFC 9457 `application/problem+json`, with a `kind`; extra members carry figures such as `smallest_ms`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    kind: FailureKind
    detail: str

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:  # noqa: ANN401  a refusal may quote what was refused
        return plain_value(values)


class Health(Answer):
    status: Literal["ok"] = "ok"
    version: str


class ReadinessCheck(Answer):
    """One thing that the service needs. It answers without what is `degraded`, and not without what `failed`.

    `detail` is for readers with a token only, since it names files.
    """

    name: str
    state: Literal["ok", "degraded", "failed"]
    detail: str | None = None


class Readiness(Answer):
    """`waiting_for` names the checks that failed; `checks` is there where they were asked for (`?verbose=true`)."""

    ready: bool
    waiting_for: list[str]
    checks: list[ReadinessCheck] | None = None

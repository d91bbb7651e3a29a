"""The database tables, one SQLModel class for each. A wire value is stored whole as JSON if no query reads its fields.

JSON values are replaced, never changed in place: SQLAlchemy does not see inside. Latencies are milliseconds.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Index, String, TypeDecorator, UniqueConstraint
from sqlmodel import Field, SQLModel

from server.wire.text import plain_text


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: UTC in the database, timezone-aware in Python, on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text of which nothing is known, such as a log; what databases cannot hold is replaced."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain_text(value)


class Token(SQLModel, table=True):
    """A bearer token; only the hash of its secret is stored."""

    id: str = Field(primary_key=True)
    name: str
    role: str
    secret_sha256: str = Field(unique=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Supernet(SQLModel, table=True):
    """A supernet file in the home folder's `supernets/`; `file` is its name there.

    `table_bytes` and `table_sha256` are of its accuracy table when it was registered; that file may have grown since.
    """

    name: str = Field(primary_key=True)
    file: str
    sha256: str
    size_bytes: int = Field(sa_type=BigInteger)
    space: Any = Field(default=None, sa_type=JSON(none_as_null=True), nullable=True)
    classes: int | None = None
    provenance: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    is_default: bool = False
    table_sha256: str | None = None
    table_bytes: int | None = Field(default=None, sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class Model(SQLModel, table=True):
    """A deployable file; its bytes are the blob `sha256`.

    `export_key` hashes what determines the bytes; None for uploaded files and for those of an older version.
    """

    id: str = Field(primary_key=True)
    name: str | None = None
    source: str = Field(index=True)
    sha256: str = Field(index=True)
    size_bytes: int = Field(sa_type=BigInteger)
    precision: str | None = None
    arch: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    arch_id: str | None = Field(default=None, index=True)
    macs: int | None = Field(default=None, sa_type=BigInteger)
    params: int | None = Field(default=None, sa_type=BigInteger)
    accuracy: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    supernet: str | None = Field(default=None, foreign_key="supernet.name")
    manifest: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)
    export_key: str | None = Field(default=None, index=True, unique=True)


class ModelFile(SQLModel, table=True):
    """A model in another format, made when it was first requested; its bytes are the blob `sha256`."""

    model_id: str = Field(primary_key=True, foreign_key="model.id")
    format: str = Field(primary_key=True)
    sha256: str
    size_bytes: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class Agent(SQLModel, table=True):
    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    token_id: str = Field(foreign_key="token.id")
    version: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)


class Profile(SQLModel, table=True):
    """A device profile: latencies are compared only within one."""

    id: str = Field(primary_key=True)
    key: dict[str, Any] = Field(sa_type=JSON)
    anchor_reference_ms: float | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)


class Device(SQLModel, table=True):
    """A device as its agent last described it; `last_seen_at` decides whether it is offline.

    `token_id` is the token that registered it first: agents with another token cannot take it.
    """

    name: str = Field(primary_key=True)
    agent_id: str = Field(foreign_key="agent.id", index=True)
    kind: str
    state: str
    description: dict[str, Any] = Field(sa_type=JSON)
    conditions: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    profile_id: str = Field(foreign_key="profile.id")
    token_id: str | None = None
    created_at: datetime = Field(sa_type=UtcDateTime)
    last_seen_at: datetime = Field(sa_type=UtcDateTime)


class Job(SQLModel, table=True):
    """Queued work; `services/jobs.py` has the state machine. `key` makes a child unique under its parent.

    `owner` is the id of the token that asked for it, None for the service's own work. A parked job is running without
    a lease: it `waits_for` the jobs of these ids until `wait_until`, because of `wait_reason`, and goes on from its
    `checkpoint`. A job that is `same_as` another ends with that one. `not_before` delays a further attempt. A job
    that is `retry_of` another does the same work again.
    """

    __table_args__ = (
        UniqueConstraint("parent_id", "key", name="uq_job_parent_key"),
        Index("ix_job_queue", "status", "kind", "device"),
        Index("ix_job_owner", "owner", "status"),
        Index("ix_job_served", "owner", "started_at"),
    )

    id: str = Field(primary_key=True)
    kind: str
    status: str
    priority: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    device: str | None = None
    model_id: str | None = Field(default=None, foreign_key="model.id")
    parent_id: str | None = Field(default=None, foreign_key="job.id")
    key: str | None = None
    payload: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    progress: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    result: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    failure: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    attempts: int = 0
    failures: int = 0
    max_attempts: int = 3
    owner: str | None = None
    not_before: datetime | None = Field(default=None, sa_type=UtcDateTime)
    waits_for: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    wait_reason: str | None = None
    wait_until: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)
    checkpoint: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    same_as: str | None = Field(default=None, index=True)
    retry_of: str | None = None
    lease_id: str | None = None
    lease_expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime, index=True)
    created_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Attempt(SQLModel, table=True):
    """One attempt at a job; its id is the lease's id, its number the fencing token.

    `profile` is the key of the device profile as the device was registered when the lease was given.
    """

    __table_args__ = (UniqueConstraint("job_id", "number", name="uq_attempt_job_number"),)

    id: str = Field(primary_key=True)
    job_id: str = Field(foreign_key="job.id")
    number: int
    owner: str = Field(index=True)
    leased_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    outcome: str | None = None
    failure: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    log: str = Field(default="", sa_type=PlainText)
    report_sha256: str | None = None
    profile: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))


class Measurement(SQLModel, table=True):
    """One measuring session; `session` is what was reported, without the operator profile, which is in OpRow."""

    id: str = Field(primary_key=True)
    lease_id: str = Field(foreign_key="attempt.id", unique=True)
    job_id: str = Field(foreign_key="job.id", index=True)
    model_id: str = Field(foreign_key="model.id", index=True)
    profile_id: str = Field(foreign_key="profile.id", index=True)
    device: str = Field(index=True)
    p50_raw_ms: float
    p90_raw_ms: float
    anchor_p50_ms: float | None = None
    anchor_sha256: str | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    cv: float | None = None
    anchor_drift: float | None = None
    stable: bool
    unstable_reason: str | None = None
    p90_stable: bool | None = None
    p90_lower_ms: float | None = None
    p90_upper_ms: float | None = None
    p90_unstable_reason: str | None = None
    emulated: bool
    fully_accelerated: bool | None = None
    samples: int
    session: dict[str, Any] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)


class OpRow(SQLModel, table=True):
    """Time of one operator in a session's operator profile; `position` is the execution order."""

    measurement_id: str = Field(primary_key=True, foreign_key="measurement.id")
    position: int = Field(primary_key=True)
    node: int
    tag: str
    count: int
    total_us: float
    avg_us: float
    median_us: float | None = None


class BlockRow(SQLModel, table=True):
    """Time of one block of a measured arch, from its operators; the rows that predictors are fitted to.

    `latency_ms` is at the anchor's reference speed. `position` is the block's index in the arch. The rows of a session
    are made once, by the first calibration that sees it.
    """

    measurement_id: str = Field(primary_key=True, foreign_key="measurement.id")
    position: int = Field(primary_key=True)
    profile_id: str = Field(foreign_key="profile.id", index=True)
    kind: str
    block: str = Field(index=True)
    latency_ms: float


class UnalignedSession(SQLModel, table=True):
    """A session whose operator profile does not fit the operators of its model's file, so that it has no `BlockRow`s.

    `version` is the server's that tried: another version tries once more.
    """

    measurement_id: str = Field(primary_key=True, foreign_key="measurement.id")
    reason: str = Field(sa_type=PlainText)
    version: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class Predictor(SQLModel, table=True):
    """A version of the latency predictor of one device profile, made by `job_id`; its bytes are the blob `sha256`.

    `smallest` and `largest` hold `predicted_ms` of the ends of the space, `interval` the widths of the bounds.
    """

    __table_args__ = (UniqueConstraint("profile_id", "version", name="uq_predictor_profile_version"),)

    id: str = Field(primary_key=True)
    profile_id: str = Field(foreign_key="profile.id")
    version: int
    device: str
    supernet: str = Field(foreign_key="supernet.name")
    job_id: str | None = Field(default=None, foreign_key="job.id", unique=True)
    sha256: str
    anchor_reference_ms: float
    smallest: dict[str, Any] = Field(sa_type=JSON)
    largest: dict[str, Any] = Field(sa_type=JSON)
    interval: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    summary: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)


class Search(SQLModel, table=True):
    """A search request; its state and result are those of its job."""

    id: str = Field(primary_key=True)
    job_id: str = Field(foreign_key="job.id", unique=True)
    request: dict[str, Any] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime)


class IdempotencyKey(SQLModel, table=True):
    """The first answer to a key, returned again to the same body."""

    token_id: str = Field(primary_key=True, foreign_key="token.id")
    path: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    body_sha256: str
    answer: dict[str, Any] = Field(sa_type=JSON)
    created_at: datetime = Field(sa_type=UtcDateTime, index=True)


class Presence(SQLModel, table=True):
    """A server or worker process, which marks that it is alive every few seconds."""

    id: str = Field(primary_key=True)
    kind: str
    started_at: datetime = Field(sa_type=UtcDateTime)
    seen_at: datetime = Field(sa_type=UtcDateTime)

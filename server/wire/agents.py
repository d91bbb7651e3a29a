"""The protocol of agents: registration, heartbeats, leases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.wire.base import (
    MAX_COUNT,
    MAX_WAIT_SECONDS,
    Answer,
    Name,
    Progress,
    Real,
    Request,
    Sha256,
    UtcTime,
    Whole,
)
from server.wire.devices import DeviceDescription, DeviceState
from server.wire.jobs import JobKind, MeasureProtocol
from server.wire.text import Conditions, Text


class AgentRegister(Request):
    """An agent and its devices. The same name with the same token is the same agent, restarted."""

    name: Name
    version: Text
    devices: Annotated[list[DeviceDescription], Field(max_length=500)]
    leases: Annotated[list[Text], Field(max_length=500)] = Field(default_factory=list)
    """Leases that the agent still works on; the server takes back all others that it gave to the agent."""


class AgentRegistered(Answer):
    """`renew_seconds` is how often an agent that measures renews its lease, None for a third of `lease_seconds`: a
    cancellation reaches it so soon. `wait_seconds` is how long a POST /leases may wait for a job; None from a server
    where it may not. While all devices wait in such requests, heartbeats every `idle_heartbeat_seconds` are enough;
    None for `heartbeat_seconds`."""

    agent_id: str
    heartbeat_seconds: float
    idle_heartbeat_seconds: float | None = None
    poll_seconds: float
    lease_seconds: float
    renew_seconds: float | None = None
    server_time: UtcTime
    wait_seconds: float | None = None


class DeviceBeat(Request):
    """One device in a heartbeat; `conditions` are readings such as temperature or battery."""

    name: Name
    state: DeviceState
    conditions: Conditions = Field(default_factory=dict)


class Heartbeat(Request):
    """Sent every `heartbeat_seconds`; a POST /leases counts as one.

    A 404 means: the server does not know this agent, register again.
    """

    agent_id: Text
    devices: Annotated[list[DeviceBeat], Field(max_length=500)]


class HeartbeatReply(Answer):
    heartbeat_seconds: float
    idle_heartbeat_seconds: float | None = None
    poll_seconds: float
    lease_seconds: float
    renew_seconds: float | None = None
    server_time: UtcTime
    wait_seconds: float | None = None


class BlobRef(Answer):
    """A file by content; GET `url` (a path on the same server, bearer token as always) gives exactly these bytes."""

    sha256: Sha256
    size_bytes: int
    url: str


class LeaseRequest(Request):
    """POST /leases with the devices that are idle: answered 200 with a `Lease`, or 204, no body, without a job.

    With `wait_seconds` it is answered when there is a job, at the latest after that time.
    """

    agent_id: Text
    devices: Annotated[list[Name], Field(max_length=500)]
    wait_seconds: Annotated[Real, Field(ge=0, le=MAX_WAIT_SECONDS)] = 0.0


class Lease(Answer):
    """The right to do a job until `expires_at`; renew well before. `anchor` is None before the server has one."""

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

    attempt: Annotated[Whole, Field(ge=1, le=MAX_COUNT)]
    progress: Progress | None = None


class LeaseRenewed(Answer):
    lease_id: str
    attempt: int
    expires_at: UtcTime

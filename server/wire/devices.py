"""Devices and device profiles."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from server.wire.base import MAX_COUNT, MAX_WHOLE, Answer, DeviceKind, Name, Request, Shared, UtcTime
from server.wire.predictors import PredictorRef
from server.wire.text import MAX_JSON_CHARS, BoundedJson, Text

HOST = "host"
"""The device that the machine of a server is, under `make run`."""


class DeviceState(StrEnum):
    """`idle`: can take a job now. `busy`: does a job, or cannot take one now although its agent is there."""

    OFFLINE = "offline"
    IDLE = "idle"
    BUSY = "busy"


class ProfileKey(Shared):
    """The key under which latencies may be compared; measurements of two keys are never mixed."""

    kind: DeviceKind
    model: Text
    soc: Text
    os_build: Text
    abi: Text
    runtime_version: Text
    bench_build: Text
    threads: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    cpu_mask: Annotated[int, Field(ge=1, le=MAX_WHOLE)] | None

    @property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


Property = Annotated[str, StringConstraints(max_length=MAX_JSON_CHARS)]


class DeviceDescription(Shared):
    """What a device is. `name` is the slug that requests use; `serial` stays between agent and server.

    `model` is the maker's name of the phone, or the CPU of `host`; `bench_build` the hash of the android_bench binary.
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
    properties: Annotated[dict[str, Property], BoundedJson] = Field(default_factory=dict, max_length=500)

    def profile(self, threads: int = 1, cpu_mask: int | None = None) -> ProfileKey:
        """The device profile of this device under `threads` and `cpu_mask`."""
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
    """A device as it is now; `predictor` is the newest of its device profile for the default supernet, or None.

    `token_id` is the token that the device belongs to: agents with another one cannot register it.
    """

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
    token_id: str | None
    predictor: PredictorRef | None
    last_seen_at: UtcTime


class DeviceRebind(Request):
    """POST /devices/{name}/rebind: the device belongs to this token from now on."""

    token_id: Text


class ProfileView(Answer):
    """A device profile; `anchor_reference_ms` is fixed with its first predictor, None before."""

    id: str
    key: ProfileKey
    anchor_reference_ms: float | None
    measurements: int
    created_at: UtcTime

"""Measuring sessions that a compute job asks for, each a child of the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.services.storable import digest
from server.store.tables import Measurement
from server.wire import MeasureProtocol


@dataclass(frozen=True)
class SessionOrder:
    """A measuring session of a model on a device. `key` tells sessions of the same conditions apart."""

    model_id: str
    device: str
    key: str
    protocol: MeasureProtocol
    priority: int

    @property
    def child_key(self) -> str:
        """`KEY:MODEL:HASH`, the hash of device and protocol: a later attempt of the job finds the session of the same
        file, and never that of another one.

        Children of older databases have the plain key; they stay as they are and are not taken for a session of any
        model.
        """
        conditions = digest({"device": self.device, "protocol": self.protocol.model_dump(mode="json")})
        return f"{self.key}:{self.model_id}:{conditions[:16]}"


@dataclass(frozen=True)
class SessionEnd:
    """A session that is finished; it has no measurement if it failed or was cancelled."""

    measurement: Measurement | None


@dataclass(frozen=True)
class Wait:
    """A job's work stops here, without a result, until these sessions are finished; they are queued if they are not
    yet. Then its next attempt goes on from `checkpoint`, a JSON object.

    At least one of the sessions must not be finished.
    """

    sessions: tuple[SessionOrder, ...]
    stage: str
    checkpoint: Mapping[str, Any]

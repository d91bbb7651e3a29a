"""Which devices there are: they may be attached and detached while the agent runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from device_agent.cancellation import Cancellation
from device_agent.devices.device import Device


@dataclass(frozen=True)
class Attached:
    """A device came. One of the same name that is still there is replaced: it may be another phone by now."""

    device: Device


@dataclass(frozen=True)
class Detached:
    """The device of this name is gone. `reason` is a sentence for the report of the job that it was doing."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listed:
    """All devices that were there at the beginning have been attached; only from then on are heartbeats sent."""


DeviceEvent = Attached | Detached | Listed


class DeviceSource(Protocol):
    """Watches for devices, in one thread of the agent."""

    def events(self, cancellation: Cancellation) -> Iterator[DeviceEvent]:
        """The devices that are there, then Listed, then what comes and goes; ends when `cancellation` is set."""
        ...


@dataclass(frozen=True)
class FixedDevices:
    """Devices that stay as long as the agent runs, such as this machine."""

    devices: Sequence[Device]

    def events(self, cancellation: Cancellation) -> Iterator[DeviceEvent]:
        """As DeviceSource says."""
        yield from map(Attached, self.devices)
        yield Listed()
        while not cancellation.wait(None):
            pass

"""What the loop needs of a device. `host` is one; a phone over adb will be another."""

from __future__ import annotations

from typing import Protocol

from device_agent.bench.session import Conditions, Files, ReportProgress
from device_agent.cancellation import Cancellation
from server.wire import DeviceDescription, Lease, MeasurementSession


class Device(Protocol):
    """One thing that measures, used by one thread at a time except for `conditions`."""

    def describe(self) -> DeviceDescription: ...

    def conditions(self) -> Conditions:
        """What the device feels now (load, temperatures), as JSON values; for heartbeats, quick."""
        ...

    def measure(
        self, lease: Lease, files: Files, cancellation: Cancellation, progress: ReportProgress
    ) -> MeasurementSession:
        """Do one session. Raises WorkError; Cancelled soon after `cancellation` is set, with nothing left running."""
        ...

"""What the agent needs of a device. `host` is one; a phone over adb is to be another."""

from __future__ import annotations

from typing import Protocol

from device_agent.bench.session import Conditions, Files, ReportProgress
from device_agent.cancellation import Cancellation
from server.wire import DeviceDescription, Lease, MeasurementSession


class Device(Protocol):
    """A device that measures models. One thread uses it at a time, except for `describe` and `conditions`.

    `ready`, `cool_down` and `close` do nothing unless a device overrides them.
    """

    def describe(self) -> DeviceDescription: ...

    def conditions(self) -> Conditions:
        """The state of the device now (load, temperatures) as JSON values, for heartbeats; takes milliseconds."""
        ...

    def ready(self) -> bool:
        """Whether the device can do a job now. While it cannot, no job is claimed for it and it shows as busy."""
        return True

    def measure(
        self, lease: Lease, files: Files, cancellation: Cancellation, progress: ReportProgress
    ) -> MeasurementSession:
        """Measure one session. Raises WorkError; Cancelled soon after `cancellation` is set, with nothing running."""
        ...

    def cool_down(self, cancellation: Cancellation) -> None:
        """After each job: wait until the device can measure as well as before it, or until `cancellation` is set."""
        return

    def close(self) -> None:
        """Release what the device holds. Called once, after its last job, also if it is gone already."""
        return

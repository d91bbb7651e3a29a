"""The agent's life: register, tell how the devices are, and for each device: claim, measure, report, again.

One thread a device and one for heartbeats. A report goes to the spool first and from there to the server, in order and
before any new claim, so that a dead server or a killed agent loses nothing that was measured.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import structlog

from device_agent.cancellation import Cancellation
from device_agent.devices.device import Device
from device_agent.errors import AgentError, ServerAway, Unauthorized
from device_agent.job import run_lease
from device_agent.uplink.cache import Cache
from device_agent.uplink.registration import Backoff, Registration
from device_agent.uplink.spool import Spool
from server.wire import DeviceBeat, DeviceState, Lease, Report

log = structlog.get_logger()


class Agent:
    """Serves its devices from `start` to `stop`; the server may come and go."""

    def __init__(
        self,
        registration: Registration,
        devices: Sequence[Device],
        cache: Cache,
        spool: Spool,
        max_backoff_seconds: float,
    ) -> None:
        self._registration = registration
        self._devices = {device.describe().name: device for device in devices}
        self._cache = cache
        self._spool = spool
        self._max_backoff_seconds = max_backoff_seconds
        self._busy: set[str] = set()
        self._stop = Cancellation()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        # Daemons: a call to a server that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._serve, args=(name, device), name=f"serve-{name}", daemon=True)
            for name, device in self._devices.items()
        ]
        self._threads.append(threading.Thread(target=self._beat, name="heartbeat", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self, within_seconds: float) -> None:
        """End all work; what runs is killed, its lease given back, and the devices said to be offline."""
        self._stop.set("the agent was stopped: the job can be tried again")
        deadline_s = time.monotonic() + within_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._registration.registered and time.monotonic() < deadline_s:
            self._say_goodbye(deadline_s - time.monotonic())

    def _serve(self, name: str, device: Device) -> None:
        backoff = self._backoff()
        while not self._stop.is_set:
            try:
                worked = self._serve_once(name, device)
            except AgentError as error:
                self._stop.wait(backoff.after(error))
            except Exception:  # a device must not be lost to one fault; the next try may do
                log.exception("unexpected fault", device=name)
                self._stop.wait(self._max_backoff_seconds)
            else:
                backoff.clear()
                if not worked:
                    self._stop.wait(self._registration.intervals.poll)

    def _serve_once(self, name: str, device: Device) -> bool:
        """Deliver what waits, then do one job; False when there was none. Raises ApiError, SettingsError."""
        self._registration.ensure_registered()
        self._spool.flush(self._registration.server.report)
        lease = self._registration.claim(name)
        if lease is None:
            return False
        log.info("leased", job=lease.job_id, lease=lease.lease_id, attempt=lease.attempt, device=name)
        self._busy.add(name)
        try:
            self._work(lease, device)
        finally:
            self._busy.discard(name)
        return True

    def _work(self, lease: Lease, device: Device) -> None:
        report = run_lease(
            lease, device, self._registration.server, self._cache, self._registration.intervals.lease, self._stop
        )
        if report is None:
            return
        try:
            self._spool.put(report)
        except OSError as error:
            log.error("the report cannot be kept on disk, sending it straight", reason=str(error))
            self._send_unkept(report)
            return
        self._spool.flush(self._registration.server.report)

    def _send_unkept(self, report: Report) -> None:
        """A full disk: hold the report in memory until the server has it or refuses it, or the agent ends."""
        backoff = self._backoff()
        while True:
            try:
                self._registration.server.report(report)
            except AgentError as error:
                if isinstance(error, ServerAway | Unauthorized) and not self._stop.wait(backoff.after(error)):
                    continue
                log.error("a report is lost", lease=report.lease_id, reason=str(error))
            return

    def _beat(self) -> None:
        backoff = self._backoff()
        while not self._stop.is_set:
            try:
                self._registration.heartbeat(self._beats())
            except AgentError as error:
                self._stop.wait(min(backoff.after(error), self._registration.intervals.heartbeat))
            except Exception:
                log.exception("unexpected fault in the heartbeat")
                self._stop.wait(self._registration.intervals.heartbeat)
            else:
                backoff.clear()
                self._stop.wait(self._registration.intervals.heartbeat)

    def _beats(self) -> list[DeviceBeat]:
        return [
            DeviceBeat(
                name=name,
                state=DeviceState.BUSY if name in self._busy else DeviceState.IDLE,
                conditions=device.conditions(),
            )
            for name, device in self._devices.items()
        ]

    def _say_goodbye(self, seconds: float) -> None:
        beats = [DeviceBeat(name=name, state=DeviceState.OFFLINE) for name in self._devices]

        def tell() -> None:
            try:
                self._registration.heartbeat(beats)
            except AgentError as error:
                log.info("the server did not hear the goodbye", reason=str(error))

        thread = threading.Thread(target=tell, name="goodbye", daemon=True)
        thread.start()
        thread.join(seconds)

    def _backoff(self) -> Backoff:
        return Backoff(self._max_backoff_seconds, random.Random())

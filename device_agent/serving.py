"""One device, served by a thread of its own: claim a job, measure, report, until the device or the agent goes.

A report goes to the spool first and from there to the server, in order and before any new claim, so that nothing
measured is lost when the server is away or the agent is killed.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from device_agent.cancellation import Cancellation
from device_agent.devices.device import Device
from device_agent.errors import AgentError, ServerAway, Unauthorized
from device_agent.job import run_lease
from device_agent.uplink.cache import Cache
from device_agent.uplink.registration import Backoff, Registration
from device_agent.uplink.spool import Spool
from server.wire import DeviceBeat, DeviceState, Lease, Report
from server.wire.liveness import Liveness, Pulse

log = structlog.get_logger()

# More than any job takes, with a report that waits in memory for a server that is away.
JOB_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class Uplink:
    """The agent's side towards the server, shared by all devices."""

    registration: Registration
    cache: Cache
    spool: Spool
    max_backoff_seconds: float

    def backoff(self) -> Backoff:
        return Backoff(self.max_backoff_seconds, random.Random())


class ServedDevice:
    """A device and its thread, from `start` to `stop`; the thread begins when that of a predecessor has ended."""

    def __init__(
        self,
        device: Device,
        name: str,
        uplink: Uplink,
        agent_stop: Cancellation,
        predecessor: ServedDevice | None,
        liveness: Liveness,
    ) -> None:
        self.device = device
        self.name = name
        self._uplink = uplink
        self._stop = Cancellation(agent_stop)
        self._predecessor = predecessor
        self._busy = False
        self._ready = True
        self._waits = False
        self._held: str | None = None
        self._spooled: Path | None = None
        # A daemon: a call to a server that hangs must not keep the process from ending.
        self._thread = liveness.thread(f"serve-{self.name}", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self, reason: str) -> None:
        """Ask the thread to end. A job that runs is cancelled and goes back to the server with the reason."""
        self._stop.set(reason)

    def join(self, seconds: float | None) -> None:
        self._thread.join(seconds)

    @property
    def waits(self) -> bool:
        """Whether a claim of it waits at the server, which cannot be interrupted and holds nothing."""
        return self._waits

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def beat(self) -> DeviceBeat:
        """The device in a heartbeat: busy also while it is not ready, because no job is claimed for it then."""
        state = DeviceState.IDLE if self._ready and not self._busy else DeviceState.BUSY
        try:
            conditions = self.device.conditions()
        except Exception:  # the heartbeat of the other devices must not fail with it
            log.exception("the conditions of a device cannot be read", device=self.name)
            conditions = {}
        return DeviceBeat(name=self.name, state=state, conditions=conditions)

    def _run(self, pulse: Pulse) -> None:
        pulse.within(math.inf)  # its predecessor measures to the end of a run
        if self._predecessor is not None:
            self._predecessor.join(None)
            self._predecessor = None
        try:
            self._serve(pulse)
        finally:
            self._release()
            try:
                self.device.close()
            except Exception:  # the thread ends anyway, and another device may come under this name
                log.exception("a device could not be closed", device=self.name)

    def _serve(self, pulse: Pulse) -> None:
        backoff = self._uplink.backoff()
        while not self._stop.is_set:
            pulse.within(JOB_SECONDS)
            try:
                worked = self._serve_once()
            except AgentError as error:
                self._stop.wait(backoff.after(error))
            except Exception:  # one fault must not end the service of a device: the next try may succeed
                log.exception("unexpected fault", device=self.name)
                self._stop.wait(self._uplink.max_backoff_seconds)
            else:
                backoff.clear()
                if not worked:
                    self._stop.wait(self._uplink.registration.intervals.poll)

    def _serve_once(self) -> bool:
        """Deliver waiting reports, then do one job; False if there was none, and the next look has to be put off.

        Raises ApiError, SettingsError.
        """
        registration = self._uplink.registration
        registration.ensure_registered()
        self._uplink.spool.flush(registration.server.report)
        if self._spooled is not None and self._spooled.exists():
            return False  # another thread is sending it: no claim before it is delivered
        self._release()
        self._see_if_ready()
        wait_seconds, begun_s = registration.wait_seconds(), time.monotonic()
        self._waits = wait_seconds > 0
        try:
            lease = registration.claim(self.name, wait_seconds) if self._ready else None
        finally:
            self._waits = False
        if lease is None:  # after a claim that the server has held, the next one follows at once
            return 0 < wait_seconds / 2 <= time.monotonic() - begun_s
        self._held = lease.lease_id
        log.info("leased", job=lease.job_id, lease=lease.lease_id, attempt=lease.attempt, device=self.name)
        self._busy = True
        try:
            self._work(lease)
            self.device.cool_down(self._stop)
        finally:
            self._busy = False
        return True

    def _see_if_ready(self) -> None:
        was_ready, self._ready = self._ready, self.device.ready()
        if was_ready and not self._ready:
            log.warning("the device is not ready: no job is claimed for it", device=self.name)
        elif self._ready and not was_ready:
            log.info("the device is ready again", device=self.name)

    def _work(self, lease: Lease) -> None:
        registration = self._uplink.registration
        report = run_lease(
            lease, self.device, registration.server, self._uplink.cache, registration.intervals, self._stop
        )
        if report is not None:
            self._deliver(report)
        if self._spooled is None or not self._spooled.exists():
            self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._uplink.registration.release(self._held)
            self._held = None

    def _deliver(self, report: Report) -> None:
        try:
            self._spooled = self._uplink.spool.put(report)
        except OSError as error:
            log.error("the report cannot be kept on disk; holding it in memory", reason=str(error))
            self._send_unspooled(report)
        else:
            self._uplink.spool.flush(self._uplink.registration.server.report)

    def _send_unspooled(self, report: Report) -> None:
        """Hold a report in memory until the server accepts or refuses it, the disk takes it, or the agent ends.

        Nothing is claimed meanwhile, so that there is one such report at most.
        """
        backoff = self._uplink.backoff()
        while True:
            try:
                self._uplink.registration.server.report(report)
                return
            except (ServerAway, Unauthorized) as error:
                is_over, reason = self._stop.wait(backoff.after(error)), str(error)
            except AgentError as error:
                is_over, reason = True, str(error)
            with suppress(OSError):
                self._spooled = self._uplink.spool.put(report)
                return
            if is_over:
                log.error("a report is lost", lease=report.lease_id, reason=reason)
                return

"""The agent: registers, sends heartbeats, and serves each device that is attached until it is detached.

One thread watches for devices, one sends heartbeats, and each device has one of its own (`serving`).
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import structlog

from device_agent.cancellation import Cancellation
from device_agent.devices.device import Device
from device_agent.devices.source import Attached, Detached, DeviceEvent, DeviceSource
from device_agent.errors import AgentError
from device_agent.serving import ServedDevice, Uplink
from device_agent.uplink.registration import Intervals
from server.wire import DeviceBeat, DeviceState
from server.wire.liveness import Liveness, Pulse, Watchdog

log = structlog.get_logger()
LOOK_SECONDS = 0.1
IDLE_LOOK_SECONDS = 1.0  # for the end of a wait

# For one heartbeat, with the reports that it delivers; each call to the server has a limit of its own.
BEAT_SECONDS = 1800.0


class Agent:
    """Serves the devices of a source from `start` to `stop`; the server may come and go. `alive_file` is touched while
    all parts work (`server.wire.liveness`)."""

    def __init__(self, source: DeviceSource, uplink: Uplink, alive_file: Path | None = None) -> None:
        self._source = source
        self._alive_file = alive_file
        self._uplink = uplink
        self._stop = Cancellation()
        self._listed = threading.Event()
        self._present: dict[str, ServedDevice] = {}
        self._leaving: list[ServedDevice] = []
        self._liveness = Liveness()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        # Daemons: a call to a server that hangs must not keep the process from ending.
        targets = {"devices": self._watch, "heartbeat": self._beat}
        self._threads = [self._liveness.thread(name, run) for name, run in targets.items()]
        for thread in self._threads:
            thread.start()
        Watchdog(self._liveness, alive_file=self._alive_file).start()

    def stop(self, within_seconds: float) -> None:
        """End all work: running benchmarks are killed, leases returned, and the devices reported as offline."""
        self._stop.set("the agent was stopped: the job can be tried again")
        self._listed.set()
        deadline_s = time.monotonic() + within_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        for served in (*self._leaving, *self._present.values()):
            while served.is_alive and not served.waits and time.monotonic() < deadline_s:
                served.join(LOOK_SECONDS)
        if self._uplink.registration.registered and time.monotonic() < deadline_s:
            self._say_goodbye(deadline_s - time.monotonic())

    def _watch(self, pulse: Pulse) -> None:
        pulse.within(math.inf)  # a source says nothing while no device comes or goes
        while not self._stop.is_set:
            try:
                for event in self._source.events(self._stop):
                    self._follow(event)
            except Exception:  # the devices that are served go on, and the source is asked again
                log.exception("watching for devices failed; trying again")
            self._stop.wait(self._uplink.max_backoff_seconds)

    def _follow(self, event: DeviceEvent) -> None:
        try:
            if isinstance(event, Attached):
                self._attach(event.device)
            elif isinstance(event, Detached):
                self._detach(event.name, event.reason)
            else:
                self._listed.set()
        except Exception:  # the fault of one device
            log.exception("a device could not be attached or detached")

    def _attach(self, device: Device) -> None:
        about = device.describe()
        predecessor = self._detach(about.name, "the device was attached again: the job can be tried again")
        log.info("device attached", device=about.name)
        served = ServedDevice(device, about.name, self._uplink, self._stop, predecessor, self._liveness)
        self._uplink.registration.set_device(about)
        # Replaced, not changed: the heartbeat reads it without a lock.
        self._present = {**self._present, about.name: served}
        served.start()

    def _detach(self, name: str, reason: str) -> ServedDevice | None:
        """The device that was served under the name, on its way out."""
        served = self._present.get(name)
        if served is None:
            return None
        log.info("device detached", device=name, reason=reason)
        self._present = {other: kept for other, kept in self._present.items() if other != name}
        self._leaving = [*(leaving for leaving in self._leaving if leaving.is_alive), served]
        self._uplink.registration.remove_device(name)
        served.stop(reason)
        return served

    def _beat(self, pulse: Pulse) -> None:
        pulse.within(math.inf)
        registration, backoff = self._uplink.registration, self._uplink.backoff()
        # A heartbeat before would register the agent without its devices, which the server then takes for offline.
        self._listed.wait()
        while not self._stop.is_set:
            pulse.within(registration.intervals.idle_heartbeat + registration.intervals.heartbeat + BEAT_SECONDS)
            try:
                registration.heartbeat([served.beat() for served in self._present.values()])
                if not self._present:  # otherwise the threads of the devices deliver what waits
                    self._uplink.spool.flush(registration.server.report)
            except AgentError as error:
                self._stop.wait(min(backoff.after(error), registration.intervals.heartbeat))
            except Exception:
                log.exception("unexpected fault in the heartbeat")
                self._stop.wait(registration.intervals.heartbeat)
            else:
                backoff.clear()
                self._rest(registration.intervals)

    def _rest(self, intervals: Intervals) -> None:
        """Until the next heartbeat: longer while all devices wait for jobs, since each wait counts as a heartbeat."""
        sent_s = time.monotonic()
        self._stop.wait(intervals.heartbeat)
        while self._all_wait() and time.monotonic() - sent_s < intervals.idle_heartbeat and not self._stop.is_set:
            self._stop.wait(min(IDLE_LOOK_SECONDS, intervals.heartbeat))

    def _all_wait(self) -> bool:
        return bool(self._present) and all(served.waits for served in self._present.values())

    def _say_goodbye(self, seconds: float) -> None:
        beats = [DeviceBeat(name=name, state=DeviceState.OFFLINE) for name in self._present]

        def send() -> None:
            try:
                self._uplink.registration.heartbeat(beats)
            except AgentError as error:
                log.info("the server was not notified of the end of this agent", reason=str(error))

        thread = threading.Thread(target=send, name="goodbye", daemon=True)
        thread.start()
        thread.join(seconds)

"""Devices come and go while the agent runs: registered, served by a thread each, and taken off again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_agent.bench.session import Conditions, Files, ReportProgress
from device_agent.cancellation import Cancellation
from device_agent.devices.device import Device
from device_agent.devices.source import Attached, Detached, DeviceEvent, DeviceSource, FixedDevices, Listed
from device_agent.loop import Agent
from device_agent.serving import Uplink
from device_agent.uplink.api import Server
from device_agent.uplink.cache import Cache
from device_agent.uplink.registration import Registration
from device_agent.uplink.spool import Spool
from server.wire import BenchRun, DeviceDescription, Lease, MeasurementSession, Round
from server.wire.connect import http_client
from tests.device_agent.agent_farm import Farm, wait_until
from tests.device_agent.fake_server import TOKEN
from tests.server.server_farm import describe


class Phone(Device):
    """A device that measures nothing: a session lasts until `go` is set or the job is cancelled."""

    def __init__(self, name: str) -> None:
        self.about = DeviceDescription.model_validate(describe(name, "phone"))
        self.is_ready = True
        self.go = threading.Event()
        self.measuring = threading.Event()
        self.cooled = threading.Event()
        self.closed = threading.Event()

    def describe(self) -> DeviceDescription:
        return self.about

    def conditions(self) -> Conditions:
        raise RuntimeError("this phone does not answer")

    def ready(self) -> bool:
        return self.is_ready

    def measure(
        self, lease: Lease, files: Files, cancellation: Cancellation, progress: ReportProgress
    ) -> MeasurementSession:
        self.measuring.set()
        while not self.go.wait(0.01):
            cancellation.check()
        run = BenchRun(samples_ns=[1000], init_ms=None, first_ms=None, conditions={})
        return MeasurementSession(
            device=self.about,
            rounds=[Round(model=run, anchor=None)],
            profile=None,
            conditions={},
            peak_rss_kb=None,
            fully_accelerated=None,
            init_ms=None,
            first_ms=None,
            emulated=False,
        )

    def cool_down(self, cancellation: Cancellation) -> None:
        self.cooled.set()

    def close(self) -> None:
        self.closed.set()


class FakeDeviceSource:
    """A source whose events a test puts."""

    def __init__(self) -> None:
        self.queue: queue.Queue[DeviceEvent] = queue.Queue()

    def events(self, cancellation: Cancellation) -> Iterator[DeviceEvent]:
        yield Listed()
        while not cancellation.is_set:
            try:
                yield self.queue.get(timeout=0.02)
            except queue.Empty:
                continue

    def attach(self, name: str) -> Phone:
        phone = Phone(name)
        self.queue.put(Attached(phone))
        return phone


@contextmanager
def running(farm: Farm, source: DeviceSource) -> Iterator[None]:
    """An agent of this process with the devices of a source."""
    for name in ("cache", "spool"):
        (farm.folder / name).mkdir()
    server = Server(http_client(farm.server.url, timeout_seconds=10), lambda: TOKEN)
    cache = Cache(farm.folder / "cache", 10**9, server.download)
    uplink = Uplink(Registration(server, "shelf"), cache, Spool(farm.folder / "spool"), max_backoff_seconds=0.2)
    agent = Agent(source, uplink)
    agent.start()
    try:
        yield
    finally:
        agent.stop(10)


@pytest.fixture
def source(agent_farm: Farm) -> Iterator[FakeDeviceSource]:
    source = FakeDeviceSource()
    with running(agent_farm, source):
        yield source


class SlowDevices(FixedDevices):
    """Devices that take a while to be found."""

    def events(self, cancellation: Cancellation) -> Iterator[DeviceEvent]:
        cancellation.wait(0.5)
        yield from super().events(cancellation)


@pytest.mark.medium
def test_the_first_registration_and_heartbeat_have_the_devices_that_are_there(agent_farm: Farm) -> None:
    with running(agent_farm, SlowDevices([Phone("pixel4")])):
        wait_until("a heartbeat", lambda: agent_farm.server.beats)
    (registered,) = agent_farm.server.agents.values()
    assert [device.name for device in registered.devices] == ["pixel4"]
    assert all([beat.name for beat in beats.devices] == ["pixel4"] for beats in agent_farm.server.beats)


def names(farm: Farm) -> list[str]:
    """The devices of the newest registration."""
    agents = list(farm.server.agents.values())
    return sorted(device.name for device in agents[-1].devices) if agents else []


def beating(farm: Farm) -> list[str]:
    return [beat.name for beat in farm.server.beats[-1].devices] if farm.server.beats else []


def states(farm: Farm) -> dict[str, str]:
    return {beat.name: beat.state.value for beat in farm.server.beats[-1].devices} if farm.server.beats else {}


def test_a_device_is_registered_served_and_taken_off(agent_farm: Farm, source: FakeDeviceSource) -> None:
    first = source.attach("pixel4")
    wait_until("its heartbeat", lambda: beating(agent_farm) == ["pixel4"])
    first.go.set()
    agent_farm.server.job(agent_farm.model())
    assert agent_farm.wait_for_report().session is not None
    wait_until("its cool-down", first.cooled.is_set)
    source.queue.put(Detached("pixel4", "the cable was pulled"))
    wait_until("its end", first.closed.is_set)
    wait_until("a heartbeat without it", lambda: beating(agent_farm) == [] and names(agent_farm) == [])


def test_a_device_that_comes_does_not_take_the_jobs_of_others(agent_farm: Farm, source: FakeDeviceSource) -> None:
    first = source.attach("pixel4")
    job = agent_farm.server.job(agent_farm.model())
    wait_until("its job", first.measuring.is_set)
    source.attach("pixel5")
    wait_until("both", lambda: names(agent_farm) == ["pixel4", "pixel5"])
    assert list(agent_farm.server.agents.values())[-1].leases == job.leases
    first.go.set()
    report = agent_farm.wait_for_report()
    assert report.session is not None and report.lease_id == job.leases[0]


def test_the_job_of_a_device_that_goes_is_given_back_with_the_reason(
    agent_farm: Farm, source: FakeDeviceSource
) -> None:
    first = source.attach("pixel4")
    agent_farm.server.job(agent_farm.model())
    wait_until("its job", first.measuring.is_set)
    source.queue.put(Detached("pixel4", "the cable was pulled"))
    failure = agent_farm.wait_for_report().failure
    assert failure is not None and failure.detail == "the cable was pulled"
    wait_until("its end", first.closed.is_set)


def test_a_device_that_comes_again_replaces_the_one_of_its_name(agent_farm: Farm, source: FakeDeviceSource) -> None:
    first = source.attach("pixel4")
    agent_farm.server.job(agent_farm.model())
    wait_until("its job", first.measuring.is_set)
    second = source.attach("pixel4")
    second.go.set()
    wait_until("the end of the first", first.closed.is_set)
    assert agent_farm.wait_for_report(2).session is not None
    assert second.measuring.is_set() and not second.closed.is_set()


@pytest.mark.medium
def test_a_device_that_is_not_ready_gets_no_job(agent_farm: Farm, source: FakeDeviceSource) -> None:
    first, second = Phone("pixel4"), Phone("pixel5")
    first.is_ready = False
    second.go.set()
    for phone in (first, second):
        source.queue.put(Attached(phone))
    for _ in range(3):
        agent_farm.server.job(agent_farm.model())
    agent_farm.wait_for_report(3)
    assert not first.measuring.is_set()
    wait_until("busy, because it takes no job", lambda: states(agent_farm) == {"pixel4": "busy", "pixel5": "idle"})
    first.is_ready = True
    wait_until("idle", lambda: states(agent_farm) == {"pixel4": "idle", "pixel5": "idle"})


def test_a_device_that_cannot_be_described_harms_no_other(agent_farm: Farm, source: FakeDeviceSource) -> None:
    broken: Any = Phone("broken")
    broken.about = None
    source.queue.put(Attached(broken))
    source.attach("pixel4")
    wait_until("the other one", lambda: beating(agent_farm) == ["pixel4"])


def test_devices_are_served_at_once(agent_farm: Farm, source: FakeDeviceSource) -> None:
    phones = [source.attach(f"pixel{number}") for number in range(4)]
    for _ in phones:
        agent_farm.server.job(agent_farm.model())
    for phone in phones:
        wait_until("a job on each", phone.measuring.is_set)
    for phone in phones:
        phone.go.set()
    agent_farm.wait_for_report(4)


def test_a_detached_device_leaves_its_report_to_the_heartbeat(
    agent_farm: Farm, source: FakeDeviceSource, tmp_path: Path
) -> None:
    first = source.attach("pixel4")
    agent_farm.server.job(agent_farm.model())
    wait_until("its job", first.measuring.is_set)
    agent_farm.server.answers["/report"] = (503, b"")
    source.queue.put(Detached("pixel4", "the cable was pulled"))
    wait_until("its end", first.closed.is_set)
    assert agent_farm.server.reports == []
    del agent_farm.server.answers["/report"]
    assert agent_farm.wait_for_report().failure is not None

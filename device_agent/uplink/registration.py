"""The agent's standing with the server: registered or not, and how often it wants to hear from us."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import structlog

from device_agent.devices.device import Device
from device_agent.errors import AgentError, ApiError, ServerAway, Unauthorized, UnknownAgent
from device_agent.uplink.api import Server
from server.wire import AgentRegister, AgentRegistered, DeviceBeat, Heartbeat, Lease, LeaseRequest

log = structlog.get_logger()


@dataclass(frozen=True)
class Intervals:
    """Seconds, as the server said when it last answered."""

    heartbeat: float
    poll: float
    lease: float


class Registration:
    """Registers when it must; shared by all threads of an agent. Raises what `Server` raises, and SettingsError."""

    def __init__(self, server: Server, name: str, devices: Sequence[Device]) -> None:
        self.server = server
        self._name = name
        self._devices = devices
        self._lock = threading.Lock()
        self._registered: AgentRegistered | None = None
        self._intervals = Intervals(heartbeat=5.0, poll=1.0, lease=60.0)

    @property
    def intervals(self) -> Intervals:
        return self._intervals

    @property
    def registered(self) -> bool:
        return self._registered is not None

    def heartbeat(self, beats: list[DeviceBeat]) -> None:
        agent_id = self.ensure_registered()
        try:
            reply = self.server.heartbeat(Heartbeat(agent_id=agent_id, devices=beats))
        except UnknownAgent as error:
            self._forget(agent_id, error)
        except Unauthorized as error:
            self._forget(agent_id, error)
            raise
        else:
            self._intervals = Intervals(reply.heartbeat_seconds, reply.poll_seconds, reply.lease_seconds)

    def claim(self, device: str) -> Lease | None:
        """The next job for a device, None when there is none or the server did not know us."""
        agent_id = self.ensure_registered()
        try:
            return self.server.claim(LeaseRequest(agent_id=agent_id, devices=[device]))
        except UnknownAgent as error:
            self._forget(agent_id, error)
            return None
        except Unauthorized as error:  # with another token by now, the server may take us for somebody else
            self._forget(agent_id, error)
            raise

    def ensure_registered(self) -> str:
        """The id that the server gave this agent."""
        with self._lock:
            if self._registered is None:
                self._registered = self._register()
            return self._registered.agent_id

    def _register(self) -> AgentRegistered:
        devices = [device.describe() for device in self._devices]
        answer = self.server.register(AgentRegister(name=self._name, version=_version(), devices=devices))
        self._intervals = Intervals(answer.heartbeat_seconds, answer.poll_seconds, answer.lease_seconds)
        log.info("registered", agent=answer.agent_id, devices=[device.name for device in devices])
        return answer

    def _forget(self, agent_id: str, error: ApiError) -> None:
        """Register at the next call, unless another thread did so meanwhile."""
        with self._lock:
            if self._registered is not None and self._registered.agent_id == agent_id:
                log.warning("the server does not take us for a registered agent; registering again", reason=str(error))
                self._registered = None


@dataclass
class Backoff:
    """How long to wait after failures in a row: doubling, scattered so that many agents do not come all at once.

    Says in the log what is wrong when it begins or changes, and when it is over.
    """

    max_seconds: float
    rng: random.Random
    first_seconds: float = 0.25
    _failures: int = field(default=0, init=False)
    _said: str = field(default="", init=False)

    def after(self, error: AgentError) -> float:
        """Seconds to wait before the next try."""
        said = f"{type(error).__name__}: {error}"
        if said != self._said:
            say = log.warning if isinstance(error, ServerAway) else log.error
            say("cannot work with the server now; trying again", reason=str(error))
        self._said = said
        seconds = min(self.max_seconds, self.first_seconds * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return seconds * self.rng.uniform(0.5, 1.0)

    def clear(self) -> None:
        if self._failures:
            log.info("working with the server again", failures=self._failures)
        self._failures, self._said = 0, ""


def _version() -> str:
    try:
        return version("elasticvit")
    except PackageNotFoundError:
        return "unknown"

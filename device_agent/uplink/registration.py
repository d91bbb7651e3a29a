"""The agent as the server knows it: whether it is registered, with which devices, and which leases it holds."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import structlog

from device_agent.errors import AgentError, ApiError, ServerAway, Unauthorized, UnknownAgent
from device_agent.uplink.api import Server
from server.wire import (
    AgentRegister,
    AgentRegistered,
    DeviceBeat,
    DeviceDescription,
    Heartbeat,
    HeartbeatReply,
    Lease,
    LeaseRequest,
)

log = structlog.get_logger()
# Short enough to see between two waits whether the device is still ready.
MAX_WAIT_SECONDS = 25.0
LEAST_WAIT = 0.6
"""Of that, drawn for each wait: many agents that a server has left at the same moment do not call again together."""

# Renewals may fail twice in a row before the lease runs out.
RENEWALS_PER_LEASE = 3


@dataclass(frozen=True)
class Intervals:
    """Seconds, from the server's last answer. `renew` is how often a lease is renewed, also to hear of its end; `wait`
    is how long a claim may wait for a job, 0 with servers that answer at once; `idle_heartbeat` is for the time while
    all devices wait."""

    heartbeat: float
    poll: float
    lease: float
    renew: float
    wait: float = 0.0
    idle_heartbeat: float = 0.0


class Registration:
    """Registers when needed: at first, when the server forgot the agent, and when its devices change.

    Shared by all threads of an agent. Methods that call the server raise what `Server` raises, and SettingsError.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self._name = name
        # Registering takes back every lease that is not named in it: no other thread may claim one meanwhile.
        self._calls = threading.Lock()
        self._state = threading.Lock()  # for the fields below, never held during a call
        self._devices: dict[str, DeviceDescription] = {}
        self._held: set[str] = set()
        self._registered: AgentRegistered | None = None
        self._intervals = Intervals(heartbeat=5.0, poll=1.0, lease=60.0, renew=20.0)

    @property
    def intervals(self) -> Intervals:
        return self._intervals

    @property
    def registered(self) -> bool:
        return self._registered is not None

    def wait_seconds(self) -> float:
        """How long the next claim waits for a job. Claims take turns, so those of several devices do not wait: they
        poll."""
        return random.uniform(LEAST_WAIT, 1.0) * self._intervals.wait if len(self._devices) == 1 else 0.0

    def set_device(self, about: DeviceDescription) -> None:
        """Serve a device from the next call on; one of its name is replaced."""
        with self._state:
            self._devices = {**self._devices, about.name: about}
            self._registered = None

    def remove_device(self, name: str) -> None:
        """Serve a device no longer from the next call on."""
        with self._state:
            self._devices = {other: about for other, about in self._devices.items() if other != name}
            self._registered = None

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
            self._intervals = _intervals(reply)

    def claim(self, device: str, wait_seconds: float = 0.0) -> Lease | None:
        """The next job for a device, waited for; None if there is none, or if the server does not know the agent.

        The lease counts as held until it is released.
        """
        with self._calls:
            agent_id = self._ensure_registered()
            try:
                asked = LeaseRequest(agent_id=agent_id, devices=[device], wait_seconds=wait_seconds)
                lease = self.server.claim(asked)
            except UnknownAgent as error:
                self._forget(agent_id, error)
                return None
            except Unauthorized as error:  # under another token the server may take it for another agent
                self._forget(agent_id, error)
                raise
            if lease is not None:
                with self._state:
                    self._held.add(lease.lease_id)
            return lease

    def release(self, lease_id: str) -> None:
        """A lease is reported or lost: the server need not keep it for this agent."""
        with self._state:
            self._held.discard(lease_id)

    def ensure_registered(self) -> str:
        """The id that the server gave this agent."""
        registered = self._registered
        if registered is not None:
            return registered.agent_id
        with self._calls:
            return self._ensure_registered()

    def _ensure_registered(self) -> str:
        registered = self._registered
        return (registered or self._register()).agent_id

    def _register(self) -> AgentRegistered:
        with self._state:
            devices, leases = self._devices, sorted(self._held)
        body = AgentRegister(name=self._name, version=_version(), devices=list(devices.values()), leases=leases)
        answer = self.server.register(body)
        with self._state:
            if self._devices is devices:  # else some came or went meanwhile, and the next call registers again
                self._registered = answer
            self._intervals = _intervals(answer)
        log.info("registered", agent=answer.agent_id, devices=sorted(devices))
        return answer

    def _forget(self, agent_id: str, error: ApiError) -> None:
        """Register at the next call, unless another thread did so meanwhile."""
        with self._state:
            if self._registered is not None and self._registered.agent_id == agent_id:
                log.warning("the server does not know this agent; registering again", reason=str(error))
                self._registered = None


@dataclass
class Backoff:
    """How long to wait after failures in a row: doubling, with jitter, so that many agents do not call all at once.

    Logs what is wrong when it begins or changes, and when it is over.
    """

    max_seconds: float
    rng: random.Random
    first_seconds: float = 0.25
    _failures: int = field(default=0, init=False)
    _logged: str = field(default="", init=False)

    def after(self, error: AgentError) -> float:
        """Seconds to wait before the next try."""
        message = f"{type(error).__name__}: {error}"
        if message != self._logged:
            write = log.warning if isinstance(error, ServerAway) else log.error
            write("cannot work with the server now; trying again", reason=str(error))
        self._logged = message
        seconds = min(self.max_seconds, self.first_seconds * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return seconds * self.rng.uniform(0.5, 1.0)

    def clear(self) -> None:
        if self._failures:
            log.info("working with the server again", failures=self._failures)
        self._failures, self._logged = 0, ""


def _intervals(answer: AgentRegistered | HeartbeatReply) -> Intervals:
    longest = answer.lease_seconds / RENEWALS_PER_LEASE
    renew = min(answer.renew_seconds or longest, longest)
    wait = min(answer.wait_seconds or 0.0, MAX_WAIT_SECONDS)
    idle = max(answer.idle_heartbeat_seconds or 0.0, answer.heartbeat_seconds)
    return Intervals(answer.heartbeat_seconds, answer.poll_seconds, answer.lease_seconds, renew, wait, idle)


def _version() -> str:
    try:
        return version("elasticvit")
    except PackageNotFoundError:
        return "unknown"

"""Agents, their devices, and the device profiles within which latencies are compared.

A device belongs to the token that registered it first: an agent with another token can neither register it, nor speak
or work for it, until an admin rebinds it (`services/device_binding.py`).
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from server.errors import BadValue, Conflict, Forbidden, NotFound
from server.ids import new_id
from server.services import device_binding, lease_expiry
from server.services.jobs import TAKEN
from server.services.pages import page
from server.services.storable import storable
from server.store.hints import AGENTS, hint
from server.store.tables import Agent, Attempt, Device, Job, Measurement, Predictor, Profile, Supernet
from server.wire import (
    AgentRegister,
    DeviceBeat,
    DeviceDescription,
    DeviceState,
    DeviceView,
    MeasureProtocol,
    Page,
    PredictorRef,
    ProfileKey,
    ProfileView,
)


def register(session: Session, body: AgentRegister, token_id: str, now: datetime, offline_after: timedelta) -> Agent:
    """Create or update an agent and its devices. Of the agents of one token, a device belongs to the last that
    registered it.

    An agent registers when it starts, and again when its devices change. The leases that it does not name as still held
    go back to the queue at once. A report that is still in its spool is accepted afterwards, unless another attempt has
    begun.

    Raises Conflict while another token's agent of that name is alive, Forbidden for a device of another token.
    """
    names = [device.name for device in body.devices]
    if len(set(names)) < len(names):
        raise BadValue("two devices of one agent have the same name: give each its own")
    agent = session.exec(select(Agent).where(Agent.name == body.name)).first()
    if agent is None:
        agent = Agent(
            id=new_id("agent", now), name=body.name, token_id=token_id, version="", created_at=now, last_seen_at=now
        )
    elif agent.token_id != token_id and now - agent.last_seen_at <= offline_after:
        raise Conflict(f"an agent named '{body.name}' is alive with another token: stop it or choose another name")
    # Under another token it is another agent, which holds none of the leases of the one before.
    kept = body.leases if agent.token_id == token_id else []
    if agent.token_id != token_id:
        hint(session, AGENTS)
    agent.token_id, agent.version, agent.last_seen_at = token_id, body.version, now
    session.add(agent)
    session.flush()
    lease_expiry.expire_of(session, agent.id, now, kept=kept)
    for description in body.devices:
        _register_device(session, agent, description, now)
    for device in session.exec(select(Device).where(Device.agent_id == agent.id, Device.token_id == token_id)):
        if device.name not in names:
            device.state = DeviceState.OFFLINE.value
            session.add(device)
    return agent


def heartbeat(session: Session, agent_id: str, beats: list[DeviceBeat], token_id: str, now: datetime) -> None:
    """Store the reported states. Raises NotFound for an unknown agent or device, Forbidden for another agent's."""
    agent = get_agent(session, agent_id, token_id)
    agent.last_seen_at = now
    session.add(agent)
    for beat in beats:
        device = session.get(Device, beat.name)
        if device is None or device.agent_id != agent_id or device.token_id != token_id:
            raise NotFound(f"device '{beat.name}' is not registered by this agent: register again")
        device.state, device.last_seen_at, device.conditions = beat.state.value, now, storable(beat.conditions)
        session.add(device)


def get_agent(session: Session, agent_id: str, token_id: str) -> Agent:
    """Raises NotFound, Forbidden."""
    agent = session.get(Agent, agent_id)
    if agent is None:
        raise NotFound(f"there is no agent '{agent_id}': register first")
    if agent.token_id != token_id:
        raise Forbidden(f"agent '{agent.name}' uses another token")
    return agent


def owned(session: Session, agent: Agent, names: list[str]) -> list[str]:
    """Those of the devices that belong to the agent and its token."""
    mine = (Device.agent_id == agent.id, Device.token_id == agent.token_id)
    return list(session.exec(select(Device.name).where(*mine, col(Device.name).in_(names))))


def get(session: Session, name: str) -> Device:
    """Raises NotFound, which names the known devices."""
    device = session.get(Device, name)
    if device is None:
        known = list(session.exec(select(Device.name).order_by(col(Device.name)).limit(100)))
        hint = f"known devices: {', '.join(known)}" if known else "no device is registered yet: start an agent"
        raise NotFound(f"there is no device '{name}'; {hint}", known=list(known))
    return device


def description(device: Device) -> DeviceDescription:
    return DeviceDescription.model_validate(device.description)


def registered_profile(session: Session, name: str, protocol: MeasureProtocol) -> ProfileKey:
    """The key of a device's profile under a protocol, as the device is registered now. Raises NotFound."""
    return description(get(session, name)).profile(protocol.threads, protocol.cpu_mask)


def state(session: Session, device: Device, now: datetime, offline_after: timedelta) -> DeviceState:
    """As its agent reported; offline after `offline_after` without a heartbeat, busy while it holds a lease."""
    if now - device.last_seen_at > offline_after:
        return DeviceState.OFFLINE
    holding = select(Job.id).join(Attempt, col(Attempt.id) == Job.lease_id)
    holding = holding.where(Job.device == device.name, col(Job.status).in_(TAKEN), Attempt.owner == device.agent_id)
    if device.state == DeviceState.IDLE and session.exec(holding.limit(1)).first() is not None:
        return DeviceState.BUSY
    return DeviceState(device.state)


def count_by_state(session: Session, now: datetime, offline_after: timedelta) -> dict[str, int]:
    """How many devices are in each state; states without a device are left out."""
    known = session.exec(select(Device)).all()
    return Counter(state(session, device, now, offline_after).value for device in known)


def listing(
    session: Session, page_token: str | None, max_results: int, now: datetime, offline_after: timedelta
) -> Page[DeviceView]:
    """By name."""
    return page(
        session,
        select(Device),
        col(Device.name),
        page_token,
        max_results,
        lambda device: view(session, device, now, offline_after),
        descending=False,
    )


def view(session: Session, device: Device, now: datetime, offline_after: timedelta) -> DeviceView:
    about = description(device)
    agent = session.get(Agent, device.agent_id)
    predictor = _default_predictor(session, device.profile_id)
    return DeviceView(
        **about.model_dump(exclude={"serial"}),
        state=state(session, device, now, offline_after),
        agent=agent.name if agent else None,
        profile_id=device.profile_id,
        token_id=device.token_id,
        predictor=PredictorRef(id=predictor.id, device=device.name, version=predictor.version) if predictor else None,
        last_seen_at=device.last_seen_at,
    )


def _default_predictor(session: Session, profile_id: str) -> Predictor | None:
    """The newest for the default supernet: the one that answers a search that names no supernet."""
    statement = (
        select(Predictor)
        .join(Supernet, col(Supernet.name) == Predictor.supernet)
        .where(Predictor.profile_id == profile_id, col(Supernet.is_default).is_(True))
    )
    return session.exec(statement.order_by(col(Predictor.version).desc()).limit(1)).first()


def ensure_profile(session: Session, key: ProfileKey, now: datetime) -> Profile:
    """The device profile of a key; a new one is created."""
    profile = session.get(Profile, key.id)
    if profile is None:
        profile = Profile(id=key.id, key=key.model_dump(mode="json"), created_at=now)
        try:
            with session.begin_nested():
                session.add(profile)
                session.flush()
        except IntegrityError:
            # Another agent of the same kind of device was faster, where transactions do not wait for each other.
            profile = session.get_one(Profile, key.id)
    return profile


def get_profile(session: Session, profile_id: str) -> Profile:
    """Raises NotFound."""
    profile = session.get(Profile, profile_id)
    if profile is None:
        raise NotFound(f"there is no device profile '{profile_id}': GET /profiles lists them")
    return profile


def profiles(session: Session, page_token: str | None, max_results: int) -> Page[ProfileView]:
    return page(
        session,
        select(Profile),
        col(Profile.id),
        page_token,
        max_results,
        lambda profile: profile_view(session, profile),
        descending=False,
    )


def profile_view(session: Session, profile: Profile) -> ProfileView:
    counted = session.exec(select(func.count()).select_from(Measurement).where(Measurement.profile_id == profile.id))
    return ProfileView(
        id=profile.id,
        key=ProfileKey.model_validate(profile.key),
        anchor_reference_ms=profile.anchor_reference_ms,
        measurements=counted.one(),
        created_at=profile.created_at,
    )


def _register_device(session: Session, agent: Agent, about: DeviceDescription, now: datetime) -> None:
    device = device_binding.locked(session, about.name)
    if device is not None:
        device_binding.check(session, device, agent.token_id)
    profile = ensure_profile(session, about.profile(), now)
    if device is None:
        device = Device(
            name=about.name,
            agent_id=agent.id,
            kind=about.kind,
            state="",
            description={},
            profile_id=profile.id,
            token_id=agent.token_id,
            created_at=now,
            last_seen_at=now,
        )
    elif device.agent_id != agent.id:
        hint(session, AGENTS)
    device.token_id = agent.token_id
    device.agent_id, device.kind, device.profile_id = agent.id, about.kind, profile.id
    device.description = storable(about.model_dump(mode="json"))
    device.state, device.last_seen_at = DeviceState.IDLE.value, now
    session.add(device)
    session.flush()

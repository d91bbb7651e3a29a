"""Agents that wait for jobs: their claims count as heartbeats, and the database is asked only where a hint has come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from server.api import hot_agents
from server.api.heartbeats import Heartbeats
from server.api.intervals import intervals
from server.services import beats, submissions
from server.services.beats import Beat, Said
from server.store.db import Database
from server.store.hints import QUEUE, device_topic
from server.store.raw_rows import QueuedFor
from server.store.tables import Device
from server.wire import DeviceState, MeasureProtocol
from tests.server.api.edge.edge_farm import eventually, serving
from tests.server.server_farm import Farm, problem

IDLE = Said(DeviceState.IDLE, {})
WAIT = {"devices": ["host"], "wait_seconds": 0.05}


def claim(farm: Farm, agent_id: str, **more: object) -> Any:  # noqa: ANN401
    return farm.call("POST", "/leases", "agent", json=WAIT | {"agent_id": agent_id} | more)


def flush(farm: Farm) -> None:
    farm.client.portal.call(farm.state.heartbeats.flush)  # type: ignore[union-attr]


def host(farm: Farm) -> Device:
    with farm.database.read() as session:
        return session.get_one(Device, "host")


@pytest.fixture
def known(any_farm: Farm) -> tuple[Farm, str]:
    """A farm with an agent that said once how its device is."""
    agent_id = any_farm.agent()
    about = {"name": "host", "state": "busy", "conditions": {"battery": 80}}
    any_farm.ok("POST", "/agents/heartbeat", "agent", json={"agent_id": agent_id, "devices": [about]})
    return any_farm, agent_id


@pytest.mark.parametrize("wait_seconds", [0.0, 0.05])
def test_a_claim_says_that_the_device_is_there_and_idle(known: tuple[Farm, str], wait_seconds: float) -> None:
    farm, agent_id = known
    for _ in range(4):
        farm.clock.pass_seconds(20)
        assert claim(farm, agent_id, wait_seconds=wait_seconds).status_code == 204
        flush(farm)
        device = host(farm)
        assert device.last_seen_at == farm.clock() and device.conditions == {"battery": 80}
        assert farm.ok("GET", "/devices/host")["state"] == "idle"


def test_a_process_learns_of_an_agent_that_another_one_has_heard(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    farm.client.portal.call(farm.state.heartbeats.forget)  # type: ignore[union-attr]
    farm.clock.pass_seconds(20)
    assert claim(farm, agent_id).status_code == 204
    assert farm.state.heartbeats.knows(agent_id, host(farm).token_id or "", ["host"])
    flush(farm)
    assert host(farm).last_seen_at == farm.clock() and host(farm).conditions == {"battery": 80}
    farm.client.portal.call(farm.state.heartbeats.forget)  # type: ignore[union-attr]
    problem(farm.call("POST", "/leases", "agent-2", json=WAIT | {"agent_id": agent_id}), 403)
    problem(claim(farm, "agent-nobody"), 404)


def test_what_is_known_of_agents_outlives_the_registration_of_others(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    token_id = host(farm).token_id or ""
    farm.agent("other", ("phone",))
    farm.agent()  # registered again, with the same device
    assert farm.state.heartbeats.knows(agent_id, token_id, ["host"])
    farm.agent("thief", ("host",))  # of the same token, so it may
    eventually(lambda: not farm.state.heartbeats.knows(agent_id, token_id, ["host"]))
    farm.clock.pass_seconds(20)
    assert claim(farm, agent_id).status_code == 204
    flush(farm)
    assert host(farm).last_seen_at < farm.clock(), "the device is the other agent's now"


def test_a_claim_leaves_the_readings_that_another_process_has_heard(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    assert claim(farm, agent_id).status_code == 204
    flush(farm)
    farm.clock.pass_seconds(10)
    with farm.database.write() as session:
        said = Said(DeviceState.BUSY, {"battery": 20})
        assert beats.write(session, {agent_id: Beat(farm.clock(), {"host": said})})
    farm.clock.pass_seconds(10)
    assert claim(farm, agent_id).status_code == 204
    flush(farm)
    assert host(farm).conditions == {"battery": 20}
    assert (host(farm).state, host(farm).last_seen_at) == ("idle", farm.clock())


def test_a_claim_keeps_the_readings_of_a_heartbeat_that_waits(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    about = {"name": "host", "state": "busy", "conditions": {"battery": 60}}
    farm.ok("POST", "/agents/heartbeat", "agent", json={"agent_id": agent_id, "devices": [about]})
    assert claim(farm, agent_id).status_code == 204
    flush(farm)
    assert (host(farm).state, host(farm).conditions) == ("idle", {"battery": 60})


def test_a_claim_for_a_device_of_another_agent_says_nothing(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    other_id = farm.agent("other", ("phone",))
    seen_at = host(farm).last_seen_at
    farm.clock.pass_seconds(20)
    assert claim(farm, other_id).status_code == 204
    flush(farm)
    assert host(farm).last_seen_at == seen_at and host(farm).state == "busy"
    assert agent_id == host(farm).agent_id


def test_a_heartbeat_that_waited_changes_nothing_newer(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    heard_at = farm.clock()
    farm.clock.pass_seconds(2)
    goodbye = {"agent_id": agent_id, "devices": [{"name": "host", "state": "offline"}]}
    farm.ok("POST", "/agents/heartbeat", "agent", json=goodbye)
    late = {agent_id: Beat(heard_at, {"host": IDLE})}
    with farm.database.write() as session:
        assert beats.write(session, late), "the rows are there"
    assert host(farm).state == "offline" and host(farm).last_seen_at == farm.clock()
    moved = {agent_id: Beat(heard_at, {"phone": IDLE})}
    with farm.database.write() as session:
        assert not beats.write(session, moved)


def test_after_the_clock_was_set_back_heartbeats_count(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    earlier = farm.clock() - timedelta(hours=1)
    with farm.database.write() as session:
        assert beats.write(session, {agent_id: Beat(earlier, {"host": IDLE})})
    assert host(farm).last_seen_at == earlier and host(farm).state == "idle"


def test_processes_that_hear_the_same_agents_do_not_wait_for_each_other(any_farm: Farm) -> None:
    names = [f"phone-{number}" for number in range(30)]
    agent_ids = [any_farm.agent(name, (name,)) for name in names]
    heard = {agent_id: Beat(any_farm.clock(), {name: IDLE}) for agent_id, name in zip(agent_ids, names, strict=True)}
    url = any_farm.database.engine.url.render_as_string(hide_password=False)

    def write(agent_ids: Sequence[str]) -> bool:
        database = Database(url)  # as of another process
        try:
            for _ in range(20):
                with database.write() as session:
                    if not beats.write(session, {agent_id: heard[agent_id] for agent_id in agent_ids}):
                        return False
        finally:
            database.close()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(write, (agent_ids, agent_ids[::-1])))


class TestLooks:
    """How often the database is asked whether jobs are queued."""

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
        asked: list[Sequence[str]] = []
        look = QueuedFor._is_empty

        def counted(queue: QueuedFor, devices: Sequence[str]) -> bool:
            asked.append(devices)
            return look(queue, devices)

        monkeypatch.setattr(QueuedFor, "_is_empty", counted)
        return asked

    @pytest.fixture(autouse=True)
    def _listening(self, any_farm: Farm) -> None:
        postgres = any_farm.database.hints.postgres
        if postgres is not None:
            eventually(lambda: postgres.connected)

    def empty(self, farm: Farm, wait_seconds: float = 3600.0) -> bool:
        return farm.client.portal.call(farm.state.queue.is_empty, ["host"], wait_seconds)  # type: ignore[union-attr]

    def test_one_is_enough_until_a_hint_comes(self, any_farm: Farm, looks: list[Sequence[str]]) -> None:
        any_farm.agent()
        hints = any_farm.database.hints
        assert self.empty(any_farm) and self.empty(any_farm) and self.empty(any_farm)
        assert looks == [["host"]]
        for topic in (device_topic("host"), QUEUE):
            looks.clear()
            hints.wake([device_topic("another")])
            assert self.empty(any_farm) and looks == []
            hints.wake([topic])
            assert self.empty(any_farm) and self.empty(any_farm) and looks == [["host"]]

    def test_a_claim_that_may_miss_the_look_for_lost_hints_asks_each_time(
        self, any_farm: Farm, looks: list[Sequence[str]]
    ) -> None:
        agent_id = any_farm.agent()
        assert any_farm.state.settings.look_seconds == 3600.0
        assert self.empty(any_farm)
        for wait_seconds in (0.0, 25.0):
            looks.clear()
            assert self.empty(any_farm, wait_seconds) and self.empty(any_farm, wait_seconds) and len(looks) == 2
        model_id = any_farm.upload()
        with any_farm.database.write() as session:
            submissions.measure(session, model_id, "host", MeasureProtocol(), any_farm.clock())
            session.info.pop("hints")  # lost
        assert self.empty(any_farm), "what the look is for"
        assert claim(any_farm, agent_id, wait_seconds=0.0).status_code == 200

    def test_a_queued_job_is_seen_at_once_and_each_time(self, any_farm: Farm, looks: list[Sequence[str]]) -> None:
        agent_id = any_farm.agent()
        assert self.empty(any_farm)
        any_farm.measure_job()
        assert not self.empty(any_farm) and not self.empty(any_farm) and len(looks) == 3
        assert claim(any_farm, agent_id).status_code == 200
        looks.clear()
        assert self.empty(any_farm) and self.empty(any_farm) and len(looks) == 1

    def test_a_job_of_another_process_is_seen(self, any_farm: Farm) -> None:
        any_farm.agent()
        model_id = any_farm.upload()
        assert self.empty(any_farm)
        other = Database(any_farm.database.engine.url.render_as_string(hide_password=False))
        try:
            with other.write() as session:
                submissions.measure(session, model_id, "host", MeasureProtocol(), any_farm.clock())
        finally:
            other.close()
        eventually(lambda: not self.empty(any_farm))

    def test_while_hints_are_not_received_every_claim_looks(
        self, any_farm: Farm, looks: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        postgres = any_farm.database.hints.postgres
        if postgres is None:
            pytest.skip("only PostgreSQL's hints come over a connection")
        monkeypatch.setattr(postgres, "_connected", False)
        assert self.empty(any_farm) and self.empty(any_farm) and len(looks) == 2


def test_a_wait_ends_with_its_client(known: tuple[Farm, str]) -> None:
    farm, agent_id = known
    secret = farm.secret("agent")
    waiting = farm.state.watch._waiting
    with serving(farm.client.app) as server:
        for path in ("/leases", "/leases?slow"):  # before the framework, and by the route
            before = len(waiting)
            body = f'{{"agent_id": "{agent_id}", "devices": ["host"], "wait_seconds": 30}}'
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection = server.say(head.encode() + body.encode())
            eventually(lambda before=before: len(waiting) == before + 1)  # type: ignore[misc]
            begun_s = time.monotonic()
            connection.close()
            eventually(lambda before=before: len(waiting) == before)  # type: ignore[misc]
            assert time.monotonic() - begun_s < 20, "not at the end of its time"


def test_long_waits_end_together_and_never_late() -> None:
    now_s = time.monotonic()
    ends_s = [hot_agents._end_s(25.0) for _ in range(50)]
    assert len(set(ends_s)) <= 2 and all(now_s + 24.0 < end_s <= time.monotonic() + 25.0 for end_s in ends_s)
    short_s = hot_agents._end_s(1.0)
    assert now_s + 1.0 <= short_s <= time.monotonic() + 1.0


def test_many_agents_are_asked_to_call_less_often(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    few = intervals(farm.state)
    assert (few["heartbeat_seconds"], few["idle_heartbeat_seconds"]) == (5.0, 5.0)
    monkeypatch.setattr(Heartbeats, "__len__", lambda _: 1000)
    many = intervals(farm.state)
    assert (many["heartbeat_seconds"], many["idle_heartbeat_seconds"]) == (15.0, 50.0)
    # The next request of an agent comes before its device counts as offline.
    assert many["wait_seconds"] < farm.state.settings.offline_after_seconds > many["heartbeat_seconds"]
    monkeypatch.setattr(Heartbeats, "__len__", lambda _: 100_000)
    assert intervals(farm.state)["idle_heartbeat_seconds"] == 60.0

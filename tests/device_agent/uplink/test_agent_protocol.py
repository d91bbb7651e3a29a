"""The contract of the agents' HTTP protocol: the fake server of these tests and the real app keep it alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from server.api.app import create_app
from server.settings import Settings
from server.wire import AgentRegistered, HeartbeatReply, Lease, LeaseRenewed, Problem, Reported
from tests.device_agent.fake_server import TOKEN, FakeServer
from tests.server.server_farm import Clock, Farm, TestClient, describe, session_body, tiny_tflite


class Side(Protocol):
    """A server that keeps the contract, as the tests drive it."""

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:  # noqa: ANN401
        """An answer to a request with a JSON body; by default with a valid token of an agent."""
        ...

    def add_job(self) -> None:
        """Queue a measurement on the device `host`."""
        ...

    def take_back(self, lease: dict[str, Any]) -> None:
        """End a lease, as a server does with a job that was cancelled."""
        ...

    def lose(self, sha256: str) -> None:
        """Lose a file."""
        ...

    def pass_delay(self) -> None:
        """Until a job that failed may be claimed again."""
        ...


class FakeSide:
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._http = httpx.Client(base_url=server.url, trust_env=False)

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:  # noqa: ANN401
        return self._http.request(method, path, json=body, headers={"Authorization": f"Bearer {token or TOKEN}"})

    def add_job(self) -> None:
        self._server.job(self._server.blob(tiny_tflite()))

    def take_back(self, lease: dict[str, Any]) -> None:
        self._server.gone.add(lease["lease_id"])

    def lose(self, sha256: str) -> None:
        del self._server.blobs[sha256]

    def pass_delay(self) -> None:
        """The fake server has none."""


class RealSide:
    def __init__(self, farm: Farm) -> None:
        self._farm = farm

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:  # noqa: ANN401
        headers = {"Authorization": f"Bearer {token or self._farm.secret('agent')}"}
        return self._farm.client.request(method, path, json=body, headers=headers)

    def pass_delay(self) -> None:
        self._farm.clock.pass_seconds(10)

    def add_job(self) -> None:
        self._farm.measure_job()

    def take_back(self, lease: dict[str, Any]) -> None:
        self._farm.ok("POST", f"/jobs/{lease['job_id']}/cancel")

    def lose(self, sha256: str) -> None:
        self._farm.blobs.path(sha256).unlink()


@pytest.fixture(params=["fake", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    """The fake server, and the real app on each database."""
    if request.param == "fake":
        server = FakeServer()
        yield FakeSide(server)
        server.close()
        return
    clock, home = Clock(), tmp_path / "home"
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    app = create_app(Settings(home=home, sweep_seconds=3600, database_url=url), clock)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield RealSide(Farm(client=client, clock=clock, home=home, state=app.state.server))


def register(side: Side, **more: Any) -> str:  # noqa: ANN401
    body = {"name": "beside-host", "version": "1", "devices": [describe()], **more}
    answer = side.call("POST", "/agents/register", body)
    assert answer.status_code == 200, answer.text
    return AgentRegistered.model_validate_json(answer.content).agent_id


def claim(side: Side, agent_id: str) -> dict[str, Any]:
    answer = side.call("POST", "/leases", {"agent_id": agent_id, "devices": ["host"]})
    assert answer.status_code == 200, answer.text
    Lease.model_validate_json(answer.content)
    lease: dict[str, Any] = answer.json()
    return lease


def report(side: Side, lease: dict[str, Any], **more: Any) -> Any:  # noqa: ANN401
    body = {"lease_id": lease["lease_id"], "attempt": lease["attempt"], "outcome": "measured"}
    body |= more or {"session": session_body()}
    return side.call("POST", f"/leases/{lease['lease_id']}/report", body)


def renew(side: Side, lease: dict[str, Any]) -> Any:  # noqa: ANN401
    body = {"attempt": lease["attempt"], "progress": {"stage": "measuring", "done": 0, "total": 5}}
    return side.call("POST", f"/leases/{lease['lease_id']}/renew", body)


def is_problem(answer: Any, status: int) -> None:  # noqa: ANN401
    assert answer.status_code == status, answer.text
    document = Problem.model_validate_json(answer.content)
    assert document.status == status and document.detail and document.title


class TestAgentProtocol:
    def test_an_agent_registers_and_beats(self, side: Side) -> None:
        agent_id = register(side)
        body = {"agent_id": agent_id, "devices": [{"name": "host", "state": "idle", "conditions": {"celsius": 40.5}}]}
        answer = side.call("POST", "/agents/heartbeat", body)
        assert answer.status_code == 200
        reply = HeartbeatReply.model_validate_json(answer.content)
        assert min(reply.heartbeat_seconds, reply.poll_seconds, reply.lease_seconds) > 0

    def test_an_unknown_agent_is_404(self, side: Side) -> None:
        is_problem(side.call("POST", "/agents/heartbeat", {"agent_id": "agent-x", "devices": []}), 404)
        is_problem(side.call("POST", "/leases", {"agent_id": "agent-x", "devices": ["host"]}), 404)

    def test_a_device_that_is_not_registered_is_404(self, side: Side) -> None:
        body = {"agent_id": register(side), "devices": [{"name": "other", "state": "idle"}]}
        is_problem(side.call("POST", "/agents/heartbeat", body), 404)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/agents/register"),
            ("POST", "/agents/heartbeat"),
            ("POST", "/leases"),
            ("POST", "/leases/lease-x/renew"),
            ("POST", "/leases/lease-x/report"),
            ("GET", f"/blobs/{'0' * 64}"),
        ],
    )
    def test_a_wrong_token_is_401(self, side: Side, method: str, path: str) -> None:
        is_problem(side.call(method, path, {} if method == "POST" else None, token="wrong"), 401)

    @pytest.mark.medium
    @pytest.mark.parametrize(
        "body", [{}, {"name": "a", "version": "1"}, {"name": "a", "version": "1", "devices": [], "new": 1}]
    )
    def test_a_body_that_does_not_fit_is_422(self, side: Side, body: dict[str, Any]) -> None:
        is_problem(side.call("POST", "/agents/register", body), 422)

    def test_no_job_is_204_without_a_body(self, side: Side) -> None:
        answer = side.call("POST", "/leases", {"agent_id": register(side), "devices": ["host"]})
        assert (answer.status_code, answer.content) == (204, b"")

    def test_a_job_is_leased_once_renewed_and_reported(self, side: Side) -> None:
        agent_id = register(side)
        side.add_job()
        lease = claim(side, agent_id)
        assert (lease["kind"], lease["device"], lease["attempt"]) == ("measure", "host", 1)
        assert side.call("POST", "/leases", {"agent_id": agent_id, "devices": ["host"]}).status_code == 204
        assert LeaseRenewed.model_validate_json(renew(side, lease).content).lease_id == lease["lease_id"]
        file = side.call("GET", lease["model"]["url"])
        assert file.status_code == 200 and len(file.content) == lease["model"]["size_bytes"]
        reported = Reported.model_validate_json(report(side, lease).content)
        assert (reported.job_id, reported.status.value) == (lease["job_id"], "succeeded")

    def test_the_same_report_twice_gets_the_same_answer(self, side: Side) -> None:
        agent_id = register(side)
        side.add_job()
        lease = claim(side, agent_id)
        first, again = report(side, lease), report(side, lease)
        assert (first.status_code, again.status_code) == (200, 200) and first.json() == again.json()
        is_problem(report(side, lease, session=session_body(model_ms=3.0)), 409)

    def test_a_lease_that_was_taken_back_is_409(self, side: Side) -> None:
        agent_id = register(side)
        side.add_job()
        lease = claim(side, agent_id)
        side.take_back(lease)
        is_problem(renew(side, lease), 409)
        is_problem(report(side, lease), 409)

    def test_an_unknown_lease_is_404(self, side: Side) -> None:
        register(side)
        lease = {"lease_id": "lease-x", "attempt": 1}
        is_problem(renew(side, lease), 404)
        is_problem(report(side, lease), 404)

    @pytest.mark.parametrize(("kind", "statuses"), [("user", ["failed"]), ("device", ["queued", "queued", "failed"])])
    def test_a_failure_is_tried_again_unless_it_is_the_users(self, side: Side, kind: str, statuses: list[str]) -> None:
        agent_id = register(side)
        side.add_job()
        for attempt, status in enumerate(statuses, start=1):
            lease = claim(side, agent_id)
            assert lease["attempt"] == attempt
            failure = {"kind": kind, "detail": "it fell off the shelf"}
            answer = report(side, lease, outcome="failed", failure=failure)
            assert answer.json()["status"] == status
            side.pass_delay()

    def test_registering_again_gives_back_the_leases_that_are_not_named(self, side: Side) -> None:
        agent_id = register(side)
        side.add_job()
        first = claim(side, agent_id)
        agent_id = register(side, leases=[first["lease_id"]])
        assert renew(side, first).status_code == 200
        agent_id = register(side)
        second = claim(side, agent_id)
        assert (second["job_id"], second["attempt"]) == (first["job_id"], 2)
        is_problem(report(side, first), 409)

    def test_a_file_of_a_lease_that_is_lost_is_404(self, side: Side) -> None:
        agent_id = register(side)
        side.add_job()
        lease = claim(side, agent_id)
        side.lose(lease["model"]["sha256"])
        is_problem(side.call("GET", lease["model"]["url"]), 404)

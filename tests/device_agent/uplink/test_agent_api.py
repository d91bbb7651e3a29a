"""Each answer of the server is one of the agent's errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from device_agent.errors import (
    ApiError,
    BadAnswer,
    Missing,
    Refused,
    ServerAway,
    ServerFault,
    StaleLease,
    Unauthorized,
    UnknownAgent,
)
from device_agent.uplink.api import Server
from server.wire import AgentRegister, BlobRef, Heartbeat, LeaseRenewal, LeaseRequest
from server.wire.connect import http_client
from tests.device_agent.fake_server import TOKEN, FakeServer

PROBLEM = b'{"title": "t", "status": 1, "kind": "user", "detail": "do this instead"}'


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


def connect(server: FakeServer, token: str = TOKEN) -> Server:
    return Server(http_client(server.url, timeout_seconds=5.0), lambda: token)


@pytest.mark.parametrize(
    ("status", "claiming", "renewing"),
    [
        (301, BadAnswer, BadAnswer),
        (400, Refused, Refused),
        (401, Unauthorized, Unauthorized),
        (403, Unauthorized, StaleLease),
        (404, UnknownAgent, StaleLease),
        (409, Refused, StaleLease),
        (413, Refused, Refused),
        (422, Refused, Refused),
        (429, ServerAway, ServerAway),
        (500, ServerFault, ServerFault),
        (503, ServerAway, ServerAway),
        (507, ServerAway, ServerAway),
    ],
)
def test_statuses(fake_server: FakeServer, status: int, claiming: type[ApiError], renewing: type[ApiError]) -> None:
    fake_server.answers[""] = (status, PROBLEM)
    server = connect(fake_server)
    with pytest.raises(ApiError, match="do this instead") as claimed:
        server.claim(LeaseRequest(agent_id="a", devices=["host"]))
    with pytest.raises(ApiError, match="do this instead") as renewed:
        server.renew("lease", LeaseRenewal(attempt=1))
    assert (claimed.type, renewed.type) == (claiming, renewing)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"lease_id": "x"}', b"\xff"])
def test_an_answer_that_is_not_ours_is_as_good_as_none(fake_server: FakeServer, body: bytes) -> None:
    fake_server.answers[""] = (200, body)
    with pytest.raises(BadAnswer):
        connect(fake_server).claim(LeaseRequest(agent_id="a", devices=["host"]))


def test_no_answer_at_all(fake_server: FakeServer) -> None:
    server = connect(fake_server)
    fake_server.close()
    with pytest.raises(ServerAway):
        server.heartbeat(Heartbeat(agent_id="a", devices=[]))
    with pytest.raises(ServerAway), server.download(BlobRef(sha256="0" * 64, size_bytes=1, url="/blobs/x")):
        pass


def test_nothing_waits_is_none(fake_server: FakeServer) -> None:
    fake_server.answers[""] = (204, b"")
    assert connect(fake_server).claim(LeaseRequest(agent_id="a", devices=["host"])) is None


def test_downloads(fake_server: FakeServer) -> None:
    server, blob = connect(fake_server), fake_server.blob(b"x" * 1_000_000)
    with server.download(blob) as chunks:
        assert b"".join(chunks) == b"x" * 1_000_000
    del fake_server.blobs[blob.sha256]
    with pytest.raises(Missing), server.download(blob):
        pass


@pytest.mark.parametrize("url", ["http://elsewhere/blob", "//elsewhere/blob", "blobs/x", ""])
def test_the_token_goes_to_no_other_machine(fake_server: FakeServer, url: str) -> None:
    server = connect(fake_server)
    with pytest.raises(Refused), server.download(BlobRef(sha256="0" * 64, size_bytes=1, url=url)):
        pass
    assert fake_server.calls.total() == 0


def test_leases_are_only_named_if_there_are_any(fake_server: FakeServer) -> None:
    """An older server does not know the field, and refuses fields that it does not know."""
    server, body = connect(fake_server), AgentRegister(name="shelf", version="1", devices=[])
    server.register(body)
    server.register(body.model_copy(update={"leases": ["job-1-lease-1"]}))
    without, with_leases = fake_server.agents.values()
    assert "leases" not in without.model_fields_set and with_leases.leases == ["job-1-lease-1"]

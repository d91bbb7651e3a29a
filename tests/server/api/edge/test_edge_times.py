"""Clients that are silent, slow, or do not read are given up after a time; a handler takes as long as it likes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.api.edge.edge_farm import App, Server, eventually, is_open, rest, serving, status

SHORT_SECONDS = 0.4
pytestmark = pytest.mark.medium
POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture
def server() -> Iterator[Server]:
    short = {"header_seconds": SHORT_SECONDS, "idle_seconds": SHORT_SECONDS, "body_stall_seconds": SHORT_SECONDS}
    with serving(App(), **short, write_stall_seconds=SHORT_SECONDS) as running:
        yield running


def test_a_silent_connection_is_closed(server: Server) -> None:
    assert server.ask() == b""


@pytest.mark.parametrize("sent", [b"G", b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: ", b"\r\n\r\n"])
def test_headers_that_do_not_end_are_given_up(server: Server, sent: bytes) -> None:
    assert status(server.ask(sent) or b"HTTP/1.1 408") == 408
    eventually(lambda: server.connections == 0)


def test_headers_that_drip_are_given_up(server: Server) -> None:
    connection = server.say(b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: ")
    while is_open(connection):
        connection.sendall(b"a")
        time.sleep(0.05)
    assert status(rest(connection)) == 408


def test_an_idle_connection_is_closed_without_a_word(server: Server) -> None:
    answer = server.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.endswith(b"/x 0")


def test_a_body_that_stops_is_given_up(server: Server) -> None:
    assert status(server.ask(POST + b"Content-Length: 30000000\r\n\r\n", b'{"a":"')) == 408
    assert status(server.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab")) == 408
    eventually(lambda: server.app.gone == 2)  # the app learns of it


def test_a_body_that_drips_is_given_up(server: Server) -> None:
    connection = server.say(POST + b"Content-Length: 30000000\r\n\r\n")
    while is_open(connection):
        connection.sendall(b"a")
        time.sleep(0.05)
    assert status(rest(connection)) == 408


def test_a_client_that_does_not_read_is_given_up(server: Server) -> None:
    connection = server.say(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    eventually(lambda: server.connections == 1)
    eventually(lambda: server.connections == 0)
    assert len(rest(connection)) < 20_000_000


def test_a_client_that_reads_slowly_gets_all(server: Server) -> None:
    connection = server.say(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = 0
    while chunk := connection.recv(1_000_000):
        received += len(chunk)
        time.sleep(SHORT_SECONDS / 10)
    assert received > 20_000_000


def test_a_handler_may_take_longer_than_any_bound(server: Server) -> None:
    waiting = server.say(b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    with_body = server.say(b"POST /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
    assert server.ask() == b""  # a silent one is closed meanwhile
    assert server.ask() == b""
    server.app.go.set()
    assert rest(waiting).endswith(b"/wait 0") and rest(with_body).endswith(b"/wait 5")


def test_a_read_whose_client_left_is_stopped_and_a_change_goes_on(server: Server) -> None:
    read = server.say(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    change = server.say(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    eventually(lambda: server.app.waiting == 2)
    read.close()
    change.close()
    eventually(lambda: server.app.stopped == 1)
    server.app.go.set()
    eventually(lambda: server.app.gone == 1)
    assert server.app.stopped == 1


def test_a_body_that_the_handler_does_not_read_yet_is_not_slow(server: Server) -> None:
    body = bytes(1_000_000)
    sender = server.say(b"POST /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n")
    sender.setblocking(False)
    sent = sender.send(body)  # as much as the buffers take
    eventually(lambda: server.app.waiting == 1)
    assert server.ask() == b"" and server.ask() == b""
    server.app.go.set()
    sender.settimeout(60)
    sender.sendall(body[sent:])
    assert rest(sender).endswith(b"/wait 1000000")


def test_a_stream_of_events_is_not_cut() -> None:
    """Events that are further apart than every bound, to a client that reads them."""

    async def stream(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        assert scope["type"] == "http" and (await receive())["body"] == b""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.sleep(3 * SHORT_SECONDS)
        await send({"type": "http.response.body", "body": b""})

    short = {"header_seconds": SHORT_SECONDS, "idle_seconds": SHORT_SECONDS, "body_stall_seconds": SHORT_SECONDS}
    with serving(stream, **short, write_stall_seconds=SHORT_SECONDS) as server:
        answer = server.ask(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"data: 1") == 3 and answer.endswith(b"0\r\n\r\n")

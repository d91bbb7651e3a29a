"""Heads of requests that are too large, too many, ambiguous or no HTTP: each is refused at once, with a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.server.api.edge.edge_farm import App, Server, eventually, is_open, rest, serving, status

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(App()) as running:
        yield running


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (GET + b"X-A: " + b"a" * 65_000 + b"\r\n\r\n", 431),
        (GET + b"".join(b"X-%d: a\r\n" % i for i in range(5000)) + b"\r\n", 431),
        (GET + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 900) for i in range(60)) + b"\r\n", 431),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /x?" + b"a&" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (POST + b"Content-Length: -5\r\n\r\n", 400),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
        (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", 400),
        (b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Expect: 200-maybe\r\nContent-Length: 5\r\n\r\nhello", 417),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /x\0y HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT evil:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"BREW /x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /x HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (GET + b"X-A: a\x0bb\0c\r\n\r\n", 400),
        (POST + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_head_is_refused_and_the_connection_closed(server: Server, sent: bytes, code: int) -> None:
    answer = server.ask(sent)
    assert status(answer) == code
    head, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body)
    assert document["status"] == code and document["kind"] == "user" and document["detail"]
    assert b"application/problem+json" in head and b"connection: close" in head


@pytest.mark.medium
def test_400_mb_of_headers_are_not_read(server: Server) -> None:
    connection = server.say(GET)
    sent = 0
    with pytest.raises(OSError):
        for i in range(400):
            connection.sendall(b"X-%d: " % i + b"a" * 1_000_000 + b"\r\n")
            sent += 1
    assert sent < 40
    eventually(lambda: server.connections == 0)


@pytest.mark.medium
def test_trailers_neither_count_as_headers_nor_fill_the_memory(server: Server) -> None:
    begun = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    answer = server.ask(begun + b"Host: b\r\nX: y\r\n\r\n" + GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2
    connection = server.say(begun)
    with pytest.raises(OSError):
        for _ in range(400):
            connection.sendall(b"X: " + b"a" * 1_000_000 + b"\r\n")


def test_chunks_that_hold_next_to_nothing_are_refused(server: Server) -> None:
    chunk = b"1;" + b"x" * 5000 + b"\r\na\r\n"
    assert status(server.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 300)) == 400
    small = b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
    answer = server.ask(POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + small)
    assert answer.endswith(b"/x 50000")


def test_pipelined_requests_are_answered_in_order_and_then_a_bad_one_is_refused(server: Server) -> None:
    some = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(20))
    answer = server.ask(some + b"nonsense\r\n\r\n")
    places = [answer.index(b"/%d 0HTTP" % i) for i in range(20)]
    assert places == sorted(places) and answer.count(b"HTTP/1.1 200") == 20 and answer.count(b"HTTP/1.1 400") == 1


def test_of_too_many_pipelined_requests_the_first_ones_are_answered(server: Server) -> None:
    answer = server.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 5000)
    assert 10 < answer.count(b"HTTP/1.1 200") < 200
    assert answer.count(b"HTTP/1.1 400") == 1


@pytest.mark.parametrize(
    "sent",
    [
        GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        GET + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
        b"GET /x HTTP/1.0\r\n\r\n",
        b"\r\n\r\n" + GET + b"Connection: close\r\n\r\n",
        b"GET http://evil.example/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_can_be_answered_is_answered(server: Server, sent: bytes) -> None:
    answer = server.ask(sent)
    assert status(answer) == 200 and answer.endswith(b"/x 0")


def test_a_body_is_asked_for_when_it_is_wanted(server: Server) -> None:
    expecting = b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
    connection = server.say(POST + expecting)
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"hello")
    assert rest(connection).endswith(b"/x 5")
    early = server.ask(b"POST /early HTTP/1.1\r\nHost: a\r\n" + expecting)
    assert status(early) == 200 and b"connection: close" in early


def test_an_answer_before_the_body_reaches_a_client_that_goes_on_sending(server: Server) -> None:
    connection = server.say(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n")
    for _ in range(30):
        connection.sendall(bytes(100_000))
    answer = rest(connection)
    assert answer.endswith(b"/early 0") and b"connection: close" in answer


def test_a_connection_is_used_again(server: Server) -> None:
    connection = server.connect()
    for _ in range(3):
        connection.sendall(GET + b"\r\n")
        assert connection.recv(1000).endswith(b"/x 0")
    assert is_open(connection)
    connection.close()

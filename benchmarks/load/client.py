"""A lean HTTP client: N connections of raw asyncio protocols, each sends its next request when it has the answer.

It runs in a process of its own, so that neither server is slowed by it more than the other. Python alone; where uvloop
is installed it is used.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeVar, cast

T = TypeVar("T")
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Load:
    """What is sent: one request over and over, with the bodies in turn, on `connections` connections for `seconds`."""

    port: int
    method: str
    path: str
    token: str
    connections: int
    seconds: float
    bodies: tuple[bytes, ...] = ()

    def requests(self) -> Iterator[bytes]:
        return itertools.cycle([self._request(body) for body in self.bodies or (b"",)])

    def _request(self, body: bytes) -> bytes:
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body


@dataclass(frozen=True)
class Answers:
    """What came back; latencies in seconds, sorted."""

    latencies_s: list[float]
    seconds: float
    statuses: dict[int, int]
    bytes_each: int

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        """The latency below which `share` of the requests stayed."""
        if not self.latencies_s:
            return float("inf")
        return self.latencies_s[min(len(self.latencies_s) - 1, int(share * len(self.latencies_s)))] * 1e3


@dataclass
class _Tally:
    requests: Iterator[bytes]
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    size_bytes: int = 0


class _Requests(asyncio.Protocol):
    """One connection: knows just enough of HTTP/1.1 to see where an answer of stated length ends."""

    def __init__(self, tally: _Tally, until_s: float) -> None:
        self._tally, self._until_s = tally, until_s
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()
        self._wanted = -1
        self._begun_s = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._wanted < 0:
            self._read_head()
        if 0 <= self._wanted <= len(self._got):
            self._tally.latencies_s.append(time.perf_counter() - self._begun_s)
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._begun_s = time.perf_counter()
        if self._begun_s > self._until_s:
            self._transport.close()
            return
        self._got.clear()
        self._wanted = -1
        self._transport.write(next(self._tally.requests))

    def _read_head(self) -> None:
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._got[:end]).lower()
        status = int(head[9:12])
        at = head.find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        self._wanted = end + 4 + length
        self._tally.statuses[status] = self._tally.statuses.get(status, 0) + 1
        self._tally.size_bytes = length


def run(load: Load) -> Answers:
    """Send the load from a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_all, args=(load, sending))
    process.start()
    sending.close()
    try:
        answers: Answers = receiving.recv()
    finally:
        process.join()
    return answers


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def _send_all(load: Load, sending: Connection) -> None:
    sending.send(run_loop(_answers(load)))


async def _answers(load: Load) -> Answers:
    loop, tally = asyncio.get_running_loop(), _Tally(load.requests())
    begun_s = time.perf_counter()
    until_s = begun_s + load.seconds
    protocols = []
    for _ in range(load.connections):
        _transport, protocol = await loop.create_connection(lambda: _Requests(tally, until_s), "127.0.0.1", load.port)
        protocols.append(protocol)
    await asyncio.wait([protocol.closed for protocol in protocols], timeout=load.seconds + PATIENCE_SECONDS)
    seconds = time.perf_counter() - begun_s
    return Answers(sorted(tally.latencies_s), seconds, tally.statuses, tally.size_bytes)
